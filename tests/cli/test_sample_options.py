"""The flags of ``feat-fed sample`` that condition and guide."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from feat_fed.cli.main import run_app
from feat_fed.config import StudyConfig
from feat_fed.model import FEAT, write_weights
from feat_fed.report import RunStore

QUICK = ("-n", "1", "--steps", "2")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run whose untrained network has two classes, all of its gates open."""
    study = StudyConfig.model_validate(
        {
            "name": "tiny",
            "model": {
                **{"in_channels": 6, "hidden_size": 8, "num_trios": 1, "num_heads": 1},
                **{"mlp_ratio": 1, "num_classes": 2},
            },
            "clips": {"frames": 2, "size_px": 16},
        }
    )
    torch.manual_seed(0)
    model = FEAT(study.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    store = RunStore.create(tmp_path / "run", study)
    write_weights(store.ema(0), model.state_dict(), kind="ema", model=study.model)
    return store.root


def drawn(run: Path, out: Path, *options: str) -> bytes:
    code = run_app(
        ["sample", "--run", str(run), "--round", "0", "--out", str(out), *QUICK, *options]
    )
    assert code == 0
    return next(out.glob("*.png")).read_bytes()


def test_each_flag_changes_the_clips(run: Path, tmp_path: Path) -> None:
    choices = [
        (),
        ("--label", "0"),
        ("--label", "1"),
        ("--label", "1", "--guidance-scale", "3"),
        ("--perturbed-scale", "3"),
    ]
    pictures = [drawn(run, tmp_path / str(i), *each) for i, each in enumerate(choices)]
    assert len(set(pictures)) == len(choices)
    off = ("--label", "1", "--guidance-scale", "1", "--perturbed-scale", "0")
    assert drawn(run, tmp_path / "off", *off) == pictures[2]


@pytest.mark.parametrize(
    "options,message",
    [
        (("--guidance-scale", "3"), "guidance_scale is 3 without a label"),
        (("--label", "2"), "sampler.label is 2"),
    ],
)
def test_a_flag_that_does_not_fit_is_an_error_without_a_traceback(
    run: Path, options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(["sample", "--run", str(run), "--round", "0", *QUICK, *options]) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert message in told and "Traceback" not in told


def test_each_clip_may_have_a_file_of_its_own(run: Path, tmp_path: Path) -> None:
    drawn(run, tmp_path / "all", "-n", "3", "--clips", str(tmp_path / "each"))
    assert len(list((tmp_path / "each").iterdir())) == 3
