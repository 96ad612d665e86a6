"""The house itself: what is public, what an import costs, what an installed wheel can do."""

import importlib
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    *("torch", "flwr", "monai", "deepspeed", "ray", "pydicom", "diffusers", "matplotlib"),
    *("scipy", "numpy", "av"),
)

PUBLIC = {
    "feat_fed": {"__version__"},
    "feat_fed.federate": {
        "Encoded",
        "decode",
        "digest_of",
        "encode",
        "form_of",
        "pack",
        "read_reference",
        "rebase",
        "reference_digest",
        "unpack",
        "whole_form",
        "wire_bytes",
        "write_reference",
    },
    "feat_fed.audit": {
        "FOLDER",
        "AuditEvent",
        "AuditLog",
        "ChainedLog",
        "Head",
        "Line",
        "Noted",
        "Verdict",
        "lines",
        "verify",
    },
    "feat_fed.evaluate": {"frechet_distance", "inception_score", "kernel_distance"},
    "feat_fed.report": {
        "RoundRecord",
        "RunStore",
        "RunSummary",
        "SampleFiles",
        "SiteRound",
        "SiteStatus",
        "write_report",
        "write_samples",
    },
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    assert set(importlib.import_module(module).__all__) == PUBLIC[module]


@pytest.mark.parametrize(
    "module",
    ["feat_fed", *(f"feat_fed.{each}" for each in ("model", "diffusion", "codec", "data"))],
)
def test_every_name_in_all_exists(module: str) -> None:
    package = importlib.import_module(module)
    assert all(getattr(package, name) is not None for name in package.__all__)


@pytest.mark.parametrize(
    "module", ["feat_fed", "feat_fed.config", "feat_fed.protocol", "feat_fed.cli.main"]
)
def test_importing_is_cheap(module: str) -> None:
    script = f"import {module}, sys; print([m for m in {HEAVY} if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    ["feat_fed.cli.study_lines", "feat_fed.cli.site_screen", "feat_fed_client.supernode"],
)
def test_what_waits_and_tells_does_without_torch(module: str) -> None:
    script = f"import {module}, sys; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.stdout.strip() == "False", told.stderr


@pytest.mark.parametrize("module", ["feat_fed_client.supernode", "feat_fed_server.launch"])
def test_what_starts_processes_does_without_flowers_database(module: str) -> None:
    script = f"import {module}, sys; print('sqlalchemy' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.stdout.strip() == "False", told.stderr


def test_looking_at_a_model_does_without_torchs_compiler() -> None:
    """Every process of a study does, and the compiler, with SymPy, takes two seconds to import."""
    script = (
        "from feat_fed.model import FEATConfig; from feat_fed.model.state import state_schema; "
        "import sys; state_schema(FEATConfig(num_classes=2)); print('sympy' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.stdout.strip() == "False", told.stderr


@pytest.mark.slow
def test_the_wheel_alone_gives_a_working_command(tmp_path: Path) -> None:
    """In an empty environment, with the base dependencies and no extra."""
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT],
        check=True,
        capture_output=True,
        env=environment,
    )
    wheel = next((tmp_path / "dist").glob("*.whl"))
    venv.create(tmp_path / "empty")
    python = tmp_path / "empty" / "bin" / "python"
    install = ("install", "-q", "--no-compile", "-c", ROOT / "constraints.txt", wheel)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *install],
        check=True,
        capture_output=True,
        env=environment,
    )

    def feat_fed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [python.with_name("feat-fed"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    assert feat_fed("--help").returncode == 0
    assert "feat-fed 0." in feat_fed("version").stdout
    assert "hidden_size" in feat_fed("server", "--dry-run").stdout
    missing = feat_fed("demo")
    assert missing.returncode == 1
    assert "pip install -c constraints.txt 'feat-fed[all]'" in missing.stderr
    assert not (tmp_path / "runs").exists()
    assert "Traceback" not in missing.stderr
    sample = [
        "from pathlib import Path; from feat_fed.config import load_study",
        "from feat_fed.model import FEAT, write_weights; from feat_fed.report import RunStore",
        "s = RunStore.create(Path('run'), load_study('demo')); m = s.study.model",
        "write_weights(s.checkpoint(0), FEAT(m).state_dict(), kind='global', model=m)",
        "write_weights(s.ema(0), FEAT(m).state_dict(), kind='ema', model=m)",
    ]
    subprocess.run([python, "-c", "\n".join(sample)], check=True, cwd=tmp_path)
    drawn = feat_fed("sample", "--run", "run", "-n", "1", "--steps", "2")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "run" / "samples" / "samples.mp4").stat().st_size > 0
