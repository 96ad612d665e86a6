"""Folders of one network: what goes in comes out, and nothing else comes out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from feat_fed.errors import CheckpointError
from feat_fed.model import FEAT, FEATConfig, write_weights
from feat_fed.model import checkpoint as checkpoints

TINY = FEATConfig(
    in_channels=2, hidden_size=8, num_trios=2, num_heads=2, mlp_ratio=1.5, wkv="published"
)
CONFIG, WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"


@pytest.fixture
def model() -> FEAT:
    torch.manual_seed(0)
    return FEAT(TINY)


@pytest.fixture
def folder(tmp_path: Path, model: FEAT) -> Path:
    model.save_pretrained(tmp_path / "feat")
    return tmp_path / "feat"


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    tree = json.loads(path.read_text())
    changed = change(tree)
    path.write_text(json.dumps(tree if changed is None else changed))


def test_every_bit_comes_back_in_evaluation_mode(folder: Path, model: FEAT) -> None:
    again = FEAT.from_pretrained(str(folder))
    assert again.config == TINY and not again.training
    state, expected = again.state_dict(), model.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_saving_twice_replaces_and_leaves_no_litter(folder: Path, model: FEAT) -> None:
    with torch.no_grad():
        model.skip.bias.fill_(7)
    model.save_pretrained(folder)
    assert float(FEAT.from_pretrained(folder).skip.bias.detach().min()) == 7
    assert {each.name for each in folder.iterdir()} == {CONFIG, WEIGHTS}


def test_tools_know_the_folder(folder: Path) -> None:
    """The marks by which diffusers and safetensors' users tell what a folder is."""
    from diffusers import ConfigMixin
    from diffusers.models.model_loading_utils import load_state_dict

    class AnyModel(ConfigMixin):
        config_name = CONFIG

    about = AnyModel.load_config(folder)
    assert about["_class_name"] == "FEAT" and about["_diffusers_version"]
    assert about["hidden_size"] == TINY.hidden_size
    loaded = load_state_dict(folder / WEIGHTS)
    assert loaded.keys() == FEAT(TINY).state_dict().keys()
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        assert file.metadata()["format"] == "pt"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), r"config\.json cannot be read: No such file"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "no weights file"),
    "cut config": (lambda f: truncate(f / CONFIG), "damaged: it is not a JSON object"),
    "cut weights": (lambda f: truncate(f / WEIGHTS), "truncated"),
    "list": (lambda f: rewrite(f / CONFIG, lambda _: [1]), "not a JSON object"),
    "deep": (lambda f: (f / CONFIG).write_text("[" * 200_000), "not a JSON object"),
    "binary": (lambda f: (f / CONFIG).write_bytes(b"\xff\x00" * 9), "not a JSON object"),
    "huge": (lambda f: (f / CONFIG).write_text(" " * 2_000_000 + "{}"), "not a JSON object"),
    "foreign": (
        lambda f: rewrite(f / CONFIG, lambda c: c.update(_class_name="UNet2DModel")),
        "configures 'UNet2DModel', where FEAT was expected",
    ),
    "no class": (lambda f: rewrite(f / CONFIG, lambda c: {"x": 1}), "configures None"),
    "odd class": (lambda f: rewrite(f / CONFIG, lambda c: c.update(_class_name=[])), "FEAT"),
    "typo": (
        lambda f: rewrite(f / CONFIG, lambda c: c.update(hiden_size=8)),
        "not a FEAT's: hiden_size",
    ),
    "range": (
        lambda f: rewrite(f / CONFIG, lambda c: c.update(num_trios=-1)),
        "not a FEAT's: num_trios",
    ),
    "other heads": (
        lambda f: rewrite(f / CONFIG, lambda c: c.update(num_heads=4)),
        "of another model: num_heads 2, not 4",
    ),
    "enormous": (
        lambda f: rewrite(f / CONFIG, lambda c: c.update(num_trios=1024)),
        "of another model: num_trios 2",
    ),
    "impossible": (
        lambda f: rewrite(f / CONFIG, lambda c: c.update(num_trios=10**12)),
        "num_trios': Input should be less than or equal to 1024",
    ),
    "bare safetensors": (
        lambda f: save_file(FEAT(TINY).state_dict(), f / WEIGHTS),
        "not a weights file of feat-fed",
    ),
    "a run's weights": (
        lambda f: write_weights(f / WEIGHTS, FEAT(TINY).state_dict(), kind="ema", model=TINY),
        "'ema' weights, not 'pretrained'",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_folder_is_told(folder: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        FEAT.from_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value)) < 600


def test_an_absent_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        FEAT.from_pretrained(tmp_path / "someone" / "FEAT-S")


@pytest.mark.parametrize(
    "claim", [{"num_trios": 1024}, {"hidden_size": 65536}, {"mlp_ratio": 64.0}]
)
def test_a_whole_file_of_an_impossible_network_is_refused_at_once(
    folder: Path, claim: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forger can give both files the same lie, and the digest that belongs to it."""
    lie = TINY.model_copy(update=claim)
    state = FEAT(TINY).state_dict()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "_refuse_mismatch", lambda *_: None)
        patch.setattr(checkpoints, "fingerprint", lambda _: "0" * 64)
        write_weights(folder / WEIGHTS, state, kind="pretrained", model=lie)
    rewrite(folder / CONFIG, lambda c: c.update(claim))
    with pytest.raises(CheckpointError, match=r"its tensors are not|has other tensors"):
        FEAT.from_pretrained(folder)


def test_what_cannot_be_written_is_told(tmp_path: Path, model: FEAT) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot be made"):
        model.save_pretrained(tmp_path / "file" / "feat")
    with pytest.raises(CheckpointError, match=r"not the model's: .*float64"):
        model.double().save_pretrained(tmp_path / "feat")
