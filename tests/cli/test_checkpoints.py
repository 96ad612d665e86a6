"""``import-checkpoint`` and ``export``: released pickles in, folders and pickles out."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from feat_fed.cli.main import run_app
from feat_fed.config import StudyConfig
from feat_fed.errors import ConfigError
from feat_fed.model import FEAT, FEATConfig, load_published, to_published, write_weights
from feat_fed.pipeline import FEATPipeline
from feat_fed.report import RunStore
from shared_files import of_recorded, oracle

RELEASED = FEATConfig(
    in_channels=4, hidden_size=8, num_trios=1, num_heads=2, mlp_ratio=2, wkv="published"
)
STUDY = StudyConfig(
    name="tiny",
    model={"in_channels": 6, "hidden_size": 8, "num_trios": 1, "num_heads": 2, "mlp_ratio": 1},
    clips={"frames": 2, "size_px": 16},
)
TRAINED = 1


@pytest.fixture
def state() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return to_published(FEAT(RELEASED))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must end with a status and no traceback; return what it says."""

    def call(*arguments: object, status: int = 0) -> str:
        assert run_app([str(each) for each in arguments]) == status
        said = capsys.readouterr()
        assert not said.out and "Traceback" not in said.err
        return " ".join(said.err.split())

    return call


@pytest.fixture
def run(tmp_path: Path) -> Path:
    store = RunStore.create(tmp_path / "run", STUDY)
    for number in (0, TRAINED):
        for kind, path in (("global", store.checkpoint(number)), ("ema", store.ema(number))):
            write_weights(path, drawn(kind, number), kind=kind, model=STUDY.model)
    return store.root


def drawn(kind: str, number: int) -> dict[str, Tensor]:
    """Return the weights that the run has of this kind after a round."""
    torch.manual_seed(10 * number + len(kind))
    return FEAT(STUDY.model).state_dict()


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        torch.equal(found[name], expected[name]) for name in expected
    )


def test_an_imported_file_computes_what_the_published_code_does(
    tmp_path: Path, told: Callable[..., str]
) -> None:
    state = load_file(oracle("tiny_state_dict.safetensors"))
    io = load_file(oracle("tiny_io.safetensors"))
    torch.save({"ema": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "FEAT_S_col.pt")
    message = told("import-checkpoint", tmp_path / "FEAT_S_col.pt", tmp_path / "out")
    assert "2 trios of width 32, 4 heads" in message
    expected = io["y_kernel_f32"]
    for model in (
        FEAT.from_pretrained(tmp_path / "out"),
        FEATPipeline.from_pretrained(tmp_path / "out").model,
    ):
        with torch.no_grad():
            y = model(io["x"], io["t"])
        assert (y - expected).abs().max() < of_recorded(torch.float32) * expected.std()


def wrapped(state: dict[str, Tensor], prefix: str = "module.") -> dict[str, Tensor]:
    return {prefix + name: each for name, each in state.items()}


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize(
    "wrap,options",
    [
        (lambda s, z: s, []),
        (lambda s, z: wrapped(s), []),
        (lambda s, z: {"ema": s, "model": z}, []),
        (lambda s, z: {"ema": z, "model": wrapped(s), "opt": {"step": 1}}, ["--weights=model"]),
        (lambda s, z: {"model": s}, []),
        (lambda s, z: {"ema": s, "model": z}, ["--weights", "ema"]),
        (lambda s, z: {name: each.double() for name, each in s.items()}, []),
        (lambda s, z: {name: torch.nn.Parameter(each) for name, each in s.items()}, []),
    ],
)
def test_every_form_of_file_is_read(
    wrap: Callable[..., Any],
    options: list[str],
    old_format: bool,
    state: dict[str, Tensor],
    tmp_path: Path,
    told: Callable[..., str],
) -> None:
    zeros = {name: torch.zeros_like(each) for name, each in state.items()}
    content = wrap(state, zeros)
    torch.save(content, tmp_path / "a.pt", _use_new_zipfile_serialization=not old_format)
    told("import-checkpoint", tmp_path / "a.pt", tmp_path / "out", *options)
    expected = load_published(state, num_heads=2)
    found = FEAT.from_pretrained(tmp_path / "out")
    assert found.config == expected.config == RELEASED
    assert same(found.state_dict(), expected.state_dict())


def test_an_imported_folder_gives_latents_and_says_which_codec_it_lacks(
    state: dict[str, Tensor], tmp_path: Path, told: Callable[..., str]
) -> None:
    torch.save(state, tmp_path / "a.pt")
    assert "Stable Diffusion" in told("import-checkpoint", tmp_path / "a.pt", tmp_path / "out")
    pipeline = FEATPipeline.from_pretrained(tmp_path / "out")
    z = pipeline(seeds=[1], num_inference_steps=2, num_frames=2, output_type="latent").frames
    assert z.shape == (1, 2, 4, 16, 16)
    with pytest.raises(ConfigError, match=r"Stable Diffusion's VAE \(4 channels"):
        pipeline()


class Payload:
    """What a pickle may ask of who opens it."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.victim}'",)


def save_zip(content: object, path: Path) -> None:
    torch.save(content, path)


def save_old(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


def save_pickle(content: object, path: Path) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [save_zip, save_old, save_pickle])
@pytest.mark.parametrize("place", ["ema", "args", "name"])
def test_a_hostile_file_runs_nothing(
    save: Callable[[object, Path], None],
    place: str,
    state: dict[str, Tensor],
    tmp_path: Path,
    told: Callable[..., str],
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.pt"
    payload = Payload(victim)
    contents = {
        "ema": {"ema": payload},
        "args": {"ema": state, "args": payload},
        "name": state | {"res_conv.bias": payload},
    }
    save(contents[place], path)
    message = told("import-checkpoint", path, tmp_path / "out", status=1)
    assert "a.pt" in message
    if save is not save_pickle:
        assert "asks for posix.system when it is opened" in message and "nothing" in message
    assert not victim.exists() and not (tmp_path / "out").exists()
    # The payload works: it is not run because nobody runs it.
    pickle.loads(pickle.dumps(payload))
    assert victim.exists()


def test_other_code_is_refused_as_well(
    state: dict[str, Tensor], tmp_path: Path, told: Callable[..., str]
) -> None:
    torch.save({"ema": state, "args": argparse.Namespace(a=1)}, tmp_path / "a.pt")
    assert "asks for argparse.Namespace" in told(
        "import-checkpoint", tmp_path / "a.pt", tmp_path / "out", status=1
    )
    torch.save(torch.nn.Linear(1, 1), tmp_path / "b.pt")
    assert "asks for torch.nn.modules.linear.Linear" in told(
        "import-checkpoint", tmp_path / "b.pt", tmp_path / "out", status=1
    )


@pytest.mark.parametrize("old_format", [False, True])
def test_a_truncated_file_is_refused(
    old_format: bool, state: dict[str, Tensor], tmp_path: Path, told: Callable[..., str]
) -> None:
    path = tmp_path / "a.pt"
    torch.save(state, path, _use_new_zipfile_serialization=not old_format)
    data = path.read_bytes()
    for size in (0, 1, 60, len(data) // 3, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:size])
        message = told("import-checkpoint", path, tmp_path / "out", status=1)
        assert "a.pt is truncated or not a file of torch.save" in message
    assert not (tmp_path / "out").exists()


def without(state: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    return {name: each for name, each in state.items() if name not in names}


@pytest.mark.parametrize(
    "spoil,options,messages",
    [
        (lambda s: without(s, "res_conv.bias"), [], ["res_conv.bias is missing"]),
        (lambda s: s | {"pos_embed": torch.zeros(2)}, [], ["pos_embed is unknown"]),
        (
            lambda s: without(s, "blocks.1.ln1.bias") | {"y_embedder.x": torch.zeros(1)},
            [],
            ["blocks.1.ln1.bias is missing", "y_embedder.x is unknown"],
        ),
        (lambda s: s | {"res_conv.bias": torch.zeros(3)}, [], ["res_conv.bias is (3,), not (8,)"]),
        (
            lambda s: without(s, "restormers.0.attn.temperature"),
            [],
            ["attn.temperature' is missing"],
        ),
        (lambda s: dict(torch.nn.Linear(2, 2).state_dict()), [], ["not a released FEAT state"]),
        (lambda s: {"epoch": 3}, [], ["'epoch' is a int"]),
        (lambda s: {1: torch.zeros(1)}, [], ["a name is a int"]),
        (lambda s: [1, 2], [], ["holds a list, not a state dictionary"]),
        (lambda s: {}, [], ["not a released FEAT state"]),
        (lambda s: {"ema": s}, ["--weights=model"], ["holds 'ema' weights alone, not 'model'"]),
        (lambda s: s, ["--weights=ema"], ["without 'ema' in it"]),
        (lambda s: {name: each.long() for name, each in s.items()}, [], ["is int64, not floating"]),
        (lambda s: {name: each.to_sparse() for name, each in s.items()}, [], ["plain content"]),
        (lambda s: {name: each.to("meta") for name, each in s.items()}, [], ["plain content"]),
        (
            lambda s: s | {"x_embedder.proj.weight": torch.zeros(1).expand(10**6, 4, 10**3, 10**3)},
            [],
            ["'x_embedder.proj.weight' claims more numbers than the file holds"],
        ),
    ],
)
def test_what_a_file_lacks_or_has_too_much_is_named(
    spoil: Callable[..., object],
    options: list[str],
    messages: list[str],
    state: dict[str, Tensor],
    tmp_path: Path,
    told: Callable[..., str],
) -> None:
    torch.save(spoil(state), tmp_path / "a.pt")
    message = told("import-checkpoint", tmp_path / "a.pt", tmp_path / "out", *options, status=1)
    assert all(each in message for each in messages), message
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_there_and_an_out_that_is(
    state: dict[str, Tensor], run: Path, tmp_path: Path, told: Callable[..., str]
) -> None:
    missing = told("import-checkpoint", tmp_path / "no.pt", tmp_path / "out", status=1)
    assert "there is no file" in missing
    torch.save(state, tmp_path / "a.pt")
    assert "exists; name a place" in told("import-checkpoint", tmp_path / "a.pt", run, status=1)
    assert "exists; name a place" in told("export", run, tmp_path / "a.pt", status=1)


@pytest.mark.parametrize(
    "options,kind,number",
    [
        ([], "ema", TRAINED),
        (["--weights", "global"], "global", TRAINED),
        (["--round", "0"], "ema", 0),
        (["--round", "0", "--weights", "global"], "global", 0),
    ],
)
def test_a_run_goes_out_both_ways(
    options: list[str],
    kind: str,
    number: int,
    run: Path,
    tmp_path: Path,
    told: Callable[..., str],
) -> None:
    expected = drawn(kind, number)
    told("export", run, tmp_path / "folder", *options)
    pipeline = FEATPipeline.from_pretrained(tmp_path / "folder")
    assert same(pipeline.model.state_dict(), expected)
    assert pipeline(num_inference_steps=2).frames.shape == (1, 2, 16, 16, 3)

    message = told("export", run, tmp_path / "a.pt", "--format", "published", *options)
    assert "num_heads 2" in message and "wkv='paper'" in message
    published = torch.load(tmp_path / "a.pt", weights_only=True)
    model = load_published(published, num_heads=2, wkv="paper")
    assert model.config == STUDY.model
    assert same(model.state_dict(), expected)


def test_a_folder_goes_out_and_in_unchanged(
    state: dict[str, Tensor], tmp_path: Path, told: Callable[..., str]
) -> None:
    torch.save(state, tmp_path / "a.pt")
    told("import-checkpoint", tmp_path / "a.pt", tmp_path / "one")
    told("export", tmp_path / "one", tmp_path / "two")
    assert "wkv" not in told("export", tmp_path / "two", tmp_path / "b.pt", "--format=published")
    assert same(torch.load(tmp_path / "b.pt", weights_only=True), state)
    told("export", tmp_path / "two" / "model", tmp_path / "c.pt", "--format=published")
    assert same(torch.load(tmp_path / "c.pt", weights_only=True), state)


def test_what_cannot_be_exported_is_told(
    run: Path, tmp_path: Path, told: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    assert "no weights of round 7" in told("export", run, out, "--round", 7, status=1)
    assert "does not exist; name a run's folder" in told("export", tmp_path / "no", out, status=1)
    FEAT(RELEASED).save_pretrained(tmp_path / "feat")
    assert "a network alone" in told("export", tmp_path / "feat", out, status=1)
    message = told("export", tmp_path / "feat", out, "--round", 1, status=1)
    assert "is not a run and has no rounds" in message
    nowhere = tmp_path / "no" / "a.pt"
    message = told("export", run, nowhere, "--format=published", status=1)
    assert "a.pt cannot be written" in message
    assert not out.exists()


def test_classes_have_no_place_in_a_released_file(tmp_path: Path, told: Callable[..., str]) -> None:
    FEAT(RELEASED.model_copy(update={"num_classes": 3})).save_pretrained(tmp_path / "feat")
    message = told("export", tmp_path / "feat", tmp_path / "a.pt", "--format=published", status=1)
    assert "3 classes" in message and not (tmp_path / "a.pt").exists()


def test_our_own_export_comes_back_as_what_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    model = FEAT(STUDY.model)
    model.save_pretrained(tmp_path / "ours")
    ours, file, back = (str(tmp_path / name) for name in ("ours", "x.pt", "back"))
    assert run_app(["export", ours, file, "--format", "published"]) == 0
    assert run_app(["import-checkpoint", file, back, "--wkv", "paper"]) == 0
    assert "a codec of 6 channels that the file does not name" in capsys.readouterr().err
    again = FEAT.from_pretrained(tmp_path / "back")
    assert again.config.wkv == "paper"
    z, t = torch.randn(1, 2, 6, 4, 4), torch.tensor([5])
    assert torch.equal(again(z, t), model.eval()(z, t))
