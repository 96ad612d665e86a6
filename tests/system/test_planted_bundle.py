"""A server that was taken over plants code in the bundle that Flower ships to every site."""

import hashlib
import io
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from flwr.cli.build import build_fab_from_files

from feat_fed.audit import lines, verify
from feat_fed.bundle import bundle_files
from feat_fed.cli.main import run_app
from feat_fed.report import RunStore
from feat_fed_server.replies import NOT_APPROVED
from system.consortium import Consortium, make_folders
from system.study_runs import TINY

pytestmark = pytest.mark.slow

PLANTED = b"""
import os, pathlib
from flwr.clientapp import ClientApp
pathlib.Path(os.environ["PLANTED"]).write_text("it ran")
app = ClientApp()
"""


def planted_bundle() -> bytes:
    """Build one whose server half is ours and whose client half writes a file."""
    project = bundle_files()["pyproject.toml"].replace(b"feat_fed_client.app", b"planted.app")
    files = {"pyproject.toml": project, "planted/__init__.py": b"", "planted/app.py": PLANTED}
    return build_fab_from_files(files)[0]


HOSTILE_SERVER = """
import sys
from pathlib import Path
from feat_fed.cli.main import run_app
from feat_fed_server import superlink_client
content = Path(sys.argv[1]).read_bytes()
superlink_client.bundle = lambda: (content, sys.argv[2])
sys.exit(run_app(sys.argv[3:]))
"""


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern")
def test_planted_code_does_not_run_and_everybody_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "made").mkdir()
    make_folders(tmp_path / "made")
    consortium = Consortium(tmp_path / "consortium", tmp_path / "made", ("hospital-1",))
    study = yaml.safe_load(TINY.read_text())
    study["sites"] |= {"minimum": 1, "wait_sec": 240}
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(study))
    content = planted_bundle()
    digest = hashlib.sha256(content).hexdigest()
    (tmp_path / "planted.fab").write_bytes(content)
    file = tmp_path / "planted.txt"
    monkeypatch.setenv("PLANTED", str(file))
    server = [
        *(sys.executable, "-c", HOSTILE_SERVER, tmp_path / "planted.fab", digest),
        *("server", "--study", path, "--federation", consortium.federation),
        *("--runs", consortium.root / "runs"),
    ]
    with consortium.client("hospital-1"):
        told = subprocess.run(server, capture_output=True, text=True, timeout=300)
    assert told.returncode == 1
    assert NOT_APPROVED in told.stderr
    assert not file.exists()
    assert NOT_APPROVED in RunStore(consortium.root / "runs" / "tiny").summary().message
    store = consortium.root / "hospital-1" / "store"
    log = (store / "logs" / "executor.log").read_text()
    assert f"its bundle {digest} is not approved here" in log
    events = [line.event for line in lines(store / "audit")]
    tasks = [each for each in events if each["kind"] == "task-received"]
    assert tasks
    assert {(each["bundle_sha256"], each["code"]) for each in tasks} == {(digest, "bundle")}
    kinds = {each["kind"] for each in events}
    assert {"client-started", "connected", "client-stopped"} <= kinds
    assert not {"assignment-received", "study-seen"} & kinds
    assert {each["message"] for each in events if each["kind"] == "leaving"} == {"refusal"}
    assert not verify(store / "audit").problems
    capsys.readouterr()
    assert run_app(["site", "trust", str(consortium.site("hospital-1"))]) == 0
    assert f"feat-fed site trust SITE.YAML {digest}" in capsys.readouterr().out
    # The planted code does what it is there for, where something runs it.
    zipfile.ZipFile(io.BytesIO(content)).extractall(tmp_path / "unpacked")
    subprocess.run([sys.executable, "-m", "planted.app"], cwd=tmp_path / "unpacked", check=True)
    assert file.read_text() == "it ran"
