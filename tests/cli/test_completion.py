"""What the tab key offers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from feat_fed.cli import completion
from feat_fed.config import load_study
from feat_fed.report import RunStore


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "federation.yaml").write_text("address: h:1\nsites: [heart, hip, lung]\n")
    (tmp_path / "notes.txt").touch()
    RunStore.create(tmp_path / "runs" / "echo", load_study("demo"))
    (tmp_path / "runs" / "no-run").mkdir()
    return tmp_path


def test_studies_are_built_in_ones_and_yaml_files() -> None:
    assert completion.studies("") == ["demo", "feat-s-wavelet", "federation.yaml", "runs/"]
    assert completion.studies("fe") == ["feat-s-wavelet", "federation.yaml"]
    assert completion.studies("runs/echo/") == [
        *("runs/echo/checkpoints/", "runs/echo/logs/", "runs/echo/samples/"),
        "runs/echo/study.yaml",
    ]
    assert completion.studies("nowhere/") == []


def test_runs_and_sites() -> None:
    context = SimpleNamespace(params={})
    assert completion.run_names(context, "") == ["echo"]  # type: ignore[arg-type]
    assert completion.run_folders("ru") == ["runs/echo"]
    assert completion.run_folders("runs/n") == ["runs/no-run/"]
    assert completion.sites(context, "h") == ["heart", "hip"]  # type: ignore[arg-type]
    lost = SimpleNamespace(params={"federation": "lost.yaml", "runs": "lost"})
    assert completion.sites(lost, "") == completion.run_names(lost, "") == []  # type: ignore[arg-type]


def test_bash_completes() -> None:
    bash, installed = shutil.which("bash"), Path(sys.executable).parent
    if bash is None or not (installed / "feat-fed").exists():
        pytest.skip("no bash, or feat-fed is not installed")
    script = """
    source <(feat-fed --show-completion bash)
    COMP_WORDS=(feat-fed server --study fe) COMP_CWORD=3
    _feat_fed_completion feat-fed
    echo "${COMPREPLY[@]}"
    """
    path = f"{installed}:{os.environ['PATH']}"
    done = subprocess.run(
        [bash, "-c", script], capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout.split() == ["feat-s-wavelet", "federation.yaml"], done.stderr
