"""One way that errors look: a message, no traceback, an exit status."""

import errno
import os
from pathlib import Path

import pytest

from feat_fed.cli.main import run_app


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]):  # type: ignore[no-untyped-def]
    def run(*arguments: object) -> str:
        assert run_app([str(each) for each in arguments]) in (1, 2)
        told = capsys.readouterr().err
        assert "Traceback" not in told
        return told

    return run


def test_mistakes_on_the_command_line(fails, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert "no study at nowhere" in fails("demo", "--study", "nowhere", "--runs", tmp_path)
    assert "--rounds" in fails("server", "--rounds", 0)
    assert "No such option" in fails("demo", "--roundz", 3)
    assert "No such command" in fails("serve")
    assert "No such command 'aprove'" in fails("provision", "aprove", "federation.yaml", "a")
    assert "does not exist" in fails("client", "--site-config", tmp_path / "site.yaml")
    assert "feat-fed init site" in fails("client", "--site-config", tmp_path / "site.yaml")
    assert "is not a run" in fails("sample", "--run", tmp_path)
    assert "is not a run" in fails("report", "--run", tmp_path)
    assert "is not a folder" in fails("demo", "--data", tmp_path / "no", "--runs", tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "notes.txt").write_text("not a run")
    assert "exists" in fails("demo", "--runs", tmp_path.parent, "--run", tmp_path.name)


def test_an_unknown_key_of_a_study_is_named(fails, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "study.yaml").write_text("name: x\nround: 3\n")
    told = fails("demo", "--study", tmp_path / "study.yaml", "--runs", tmp_path)
    assert "round: unknown field; did you mean rounds?" in told


def test_a_server_says_when_its_study_is_a_built_in_one(fails, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    file = tmp_path / "federation.yaml"
    file.write_text("address: 127.0.0.1:1\nsites: [a, b]\n")
    assert "the built-in one, demo" in fails("server", "--federation", file)
    (tmp_path / "mine.yaml").write_text("name: mine\nmodel: {in_channels: 6}\n")
    assert "built-in" not in fails(
        "server", "--federation", file, "--study", tmp_path / "mine.yaml"
    )


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["--debug", "demo", "--study", "nowhere"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("code", "told"), [(errno.EACCES, "this user may not read or write it"), (errno.ENOSPC, "free")]
)
def test_a_file_that_the_system_refuses_is_one_line(  # type: ignore[no-untyped-def]
    fails, code: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "there/study.yaml")

    monkeypatch.setattr("feat_fed.cli.init._write", refuse)
    flags = ("--federation", tmp_path / "f.yaml", "--study", tmp_path / "s.yaml")
    line = " ".join(fails("init", "server", "--yes", "--site", "a", *flags).split())
    assert line.startswith("error: there/study.yaml: ") and told in line


def test_an_error_of_ours_keeps_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "not there", "x")

    monkeypatch.setattr("feat_fed.cli.init._write", fail)
    flags = ("--federation", str(tmp_path / "f.yaml"), "--study", str(tmp_path / "s.yaml"))
    with pytest.raises(FileNotFoundError):
        run_app(["init", "server", "--yes", "--site", "a", *flags])


def test_two_commands_do_not_write_one_run(fails, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from feat_fed.config import load_study
    from feat_fed.report import RunStore
    from feat_fed.report.run_store import lock_run

    store = RunStore.create(tmp_path / "r", load_study("demo"))
    with lock_run(store.root):
        told = fails("demo", "--runs", tmp_path, "--run", "r", "--rounds", 9)
    assert "is being written by another process" in told
    assert store.summary().state == "running"
    assert RunStore(store.root).study.rounds == load_study("demo").rounds
