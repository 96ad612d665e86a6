"""The pipeline: its folder, its seeds, its outputs; a run's clips come through it too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
)
from torch import Tensor

from feat_fed.codec import build_codec
from feat_fed.config import (
    CodecConfig,
    DiffusionConfig,
    FEATConfig,
    SamplerConfig,
    StudyConfig,
)
from feat_fed.diffusion import make_scheduler, sample_latents
from feat_fed.errors import CheckpointError, ConfigError, RunError
from feat_fed.generate import generate_clips, run_pipeline
from feat_fed.model import FEAT, write_weights
from feat_fed.pipeline import FEATPipeline
from feat_fed.pipeline_folder import ClipSize
from feat_fed.report import RunStore

TINY = FEATConfig(in_channels=6, hidden_size=8, num_trios=1, num_heads=2, mlp_ratio=1)
SIZE = ClipSize(num_frames=3, height=16, width=24)
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
STEPS = 4


def opened(config: FEATConfig = TINY, seed: int = 0) -> FEAT:
    """Return a network near the one that knows standard normal clips, with no gate shut."""
    torch.manual_seed(seed)
    model = FEAT(config).eval()
    with torch.no_grad():
        model.skip.weight.copy_(torch.eye(2 * config.in_channels, config.in_channels))
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return model


def built(kind: str = "ddim", **changes: Any) -> FEATPipeline:
    sampler = SamplerConfig(kind=kind)
    parts = {
        "model": opened(),
        "scheduler": make_scheduler(sampler, DiffusionConfig()),
        "codec": CodecConfig(),
        "size": SIZE,
    }
    return FEATPipeline(**parts | changes)


@pytest.fixture(scope="module")
def pipeline() -> FEATPipeline:
    return built()


def latents(pipeline: FEATPipeline, **options: Any) -> Tensor:
    options = {"num_inference_steps": STEPS, "output_type": "latent"} | options
    frames = pipeline(**options).frames
    assert isinstance(frames, Tensor)
    return frames


def settings(pipeline: FEATPipeline) -> dict[str, Any]:
    return {k: v for k, v in pipeline.scheduler.config.items() if not k.startswith("_")}


@pytest.mark.parametrize("kind", ["ddpm", "ddim", "dpm-solver++", "unipc"])
def test_the_latents_are_the_sampler_s_and_the_folder_s(kind: str, tmp_path: Path) -> None:
    expected = sample_latents(
        opened(),
        shape_FCHW=(3, 6, 4, 6),
        sampler=SamplerConfig(kind=kind, steps=STEPS),
        diffusion=DiffusionConfig(),
        seeds=[5, 3],
        batch_size=2,
    )
    pipeline = built(kind)
    assert torch.equal(latents(pipeline, seeds=[5, 3]), expected)
    pipeline.save_pretrained(tmp_path / "folder")
    again = FEATPipeline.from_pretrained(tmp_path / "folder")
    assert settings(again) == settings(pipeline)
    assert (again.codec, again.size) == (pipeline.codec, SIZE)
    assert torch.equal(latents(again, seeds=[5, 3]), expected)


@pytest.mark.parametrize("kind", ["ddpm", "dpm-solver++"])
def test_a_seed_gives_its_clip_whatever_the_batch(kind: str) -> None:
    pipeline = built(kind)
    together = pipeline(seeds=[3, 4, 5], num_inference_steps=STEPS).frames
    alone = pipeline(seeds=[5, 3], num_inference_steps=STEPS, batch_size=1).frames
    np.testing.assert_allclose(together[[2, 0]], alone, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.05


def test_the_output_types_are_one_clip(pipeline: FEATPipeline) -> None:
    z = latents(pipeline, seeds=[1, 2])
    as_pt, as_np = (
        pipeline(seeds=[1, 2], num_inference_steps=STEPS, output_type=each).frames
        for each in ("pt", "np")
    )
    assert z.shape == (2, 3, 6, 4, 6) and as_pt.shape == (2, 3, 3, 16, 24)
    assert as_np.dtype == np.float32 and as_np.shape == (2, 3, 16, 24, 3)
    decoded = build_codec(CodecConfig()).decode(z)
    np.testing.assert_allclose(as_pt, (decoded + 1) / 2, atol=1e-6)
    np.testing.assert_array_equal(as_np, as_pt.permute(0, 1, 3, 4, 2))
    assert as_np.min() >= 0 and as_np.max() <= 1


def test_a_size_can_be_asked_for(pipeline: FEATPipeline) -> None:
    assert latents(pipeline, num_frames=2, height=8).shape == (1, 2, 6, 2, 6)


def test_generators_give_the_seeds(pipeline: FEATPipeline) -> None:
    def draw(**options: Any) -> Tensor:
        return latents(pipeline, **options)

    def fresh(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    two = draw(num_videos=2, generator=fresh(1))
    assert torch.equal(draw(num_videos=2, generator=fresh(1), batch_size=8), two)
    assert not torch.allclose(two[0], two[1])
    each = draw(generator=[fresh(1), fresh(2)])
    torch.testing.assert_close(each[:1], draw(generator=fresh(1)))
    torch.manual_seed(3)
    by_torch = draw()
    torch.manual_seed(3)
    assert torch.equal(draw(), by_torch)
    assert not torch.allclose(draw(), by_torch)


def test_calls_leave_the_scheduler_as_it_was_and_repeat() -> None:
    pipeline = built("dpm-solver++")
    before = pipeline.scheduler.timesteps.clone()
    first = latents(pipeline, seeds=[1])
    assert torch.equal(latents(pipeline, seeds=[1]), first)
    assert torch.equal(pipeline.scheduler.timesteps, before)


def test_another_scheduler_can_take_the_place_as_in_diffusers() -> None:
    """Made of a DDPM's configuration, with its learned variance left in."""
    pipeline = built("ddpm")
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    assert pipeline.scheduler.config.variance_type == "learned_range"
    plain = DPMSolverMultistepScheduler(**LINEAR)
    plain.register_to_config(timestep_spacing="linspace")
    expected = latents(built(scheduler=plain), seeds=[1])
    torch.testing.assert_close(latents(pipeline, seeds=[1]), expected)


def test_guidance_reaches_the_network() -> None:
    model = opened(TINY.model_copy(update={"num_classes": 2}))
    pipeline = built(model=model)
    choices: list[dict[str, Any]] = [
        {},
        {"label": 0},
        {"label": 1},
        {"label": 1, "guidance_scale": 3.0},
        {"perturbed_scale": 3.0},
        {"precision": "bf16"},
    ]
    drawn = [latents(pipeline, seeds=[1], **each) for each in choices]
    for i, z in enumerate(drawn):
        assert not any(torch.equal(z, other) for other in drawn[:i])


def test_the_parts_are_there(pipeline: FEATPipeline) -> None:
    assert set(pipeline.components) == {"model", "scheduler", "codec"}
    assert pipeline.to("cpu") is pipeline and pipeline.device.type == "cpu"


def test_progress_is_shown_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = built()
    latents(pipeline, seeds=[1])
    assert capsys.readouterr() == ("", "")
    pipeline.set_progress_bar_config(disable=False, desc="drawing")
    latents(pipeline, seeds=[1])
    told = capsys.readouterr()
    assert "drawing" in told.err and not told.out
    pipeline.set_progress_bar_config(disable=True)
    latents(pipeline, seeds=[1])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "options,message",
    [
        ({"seeds": [1, 2], "num_videos": 3}, "num_videos is 3 and there are 2 seeds"),
        ({"seeds": []}, "0 seeds"),
        ({"num_videos": 0}, "num_videos is 0"),
        ({"seeds": [1], "generator": torch.Generator()}, "both given"),
        ({"output_type": "pil"}, "output_type is 'pil'; take 'np', 'pt' or 'latent'"),
        ({"num_inference_steps": 1}, "steps"),
        ({"height": 18}, "18 x 24 px does not divide by 4"),
        ({"height": 12}, "latents of 3 x 6 do not divide into the model's patches of 2 x 2"),
        ({"num_frames": 0}, "num_frames"),
        ({"label": 0}, "classes are none"),
        ({"guidance_scale": 2.0}, "without a label"),
    ],
)
def test_arguments_that_do_not_fit_are_told(
    pipeline: FEATPipeline, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline(**options)


def test_more_steps_than_the_diffusion_has_are_told() -> None:
    scheduler = DDIMScheduler(num_train_timesteps=20, clip_sample=False, **LINEAR)
    with pytest.raises(ConfigError, match="steps"):
        built(scheduler=scheduler)(num_inference_steps=21)


@pytest.mark.parametrize(
    "changes,message",
    [
        ({"scheduler": EulerDiscreteScheduler(**LINEAR)}, "EulerDiscreteScheduler"),
        ({"scheduler": DDPMScheduler(**LINEAR)}, "variance_type 'fixed_small'"),
        ({"scheduler": DDIMScheduler(beta_schedule="scaled_linear")}, "beta_schedule"),
        ({"scheduler": DDIMScheduler(prediction_type="sample", **LINEAR)}, "prediction_type"),
        ({"scheduler": object()}, "object"),
        ({"codec": CodecConfig(detail_channels=0)}, "3 channels and the model's have 6"),
    ],
)
def test_parts_that_do_not_fit_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        built(**changes)


def test_without_a_codec_there_are_latents_alone(tmp_path: Path) -> None:
    size = ClipSize(num_frames=2, height=4, width=4)
    built(codec=None, size=size, codec_name="the moon's VAE").save_pretrained(tmp_path)
    pipeline = FEATPipeline.from_pretrained(tmp_path)
    assert latents(pipeline, num_videos=2).shape == (2, 2, 6, 4, 4)
    with pytest.raises(ConfigError, match=r"no codec: .* of the moon's VAE; .*'latent'"):
        pipeline(num_inference_steps=STEPS)
    assert not (tmp_path / "codec").exists()


def test_the_folder_is_laid_out_as_diffusers_lays_it(
    pipeline: FEATPipeline, tmp_path: Path
) -> None:
    pipeline.save_pretrained(tmp_path)
    pipeline.save_pretrained(tmp_path)  # over itself
    files = sorted(str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*.*"))
    assert files == [
        "codec/config.json",
        "model/config.json",
        "model/diffusion_pytorch_model.safetensors",
        "model_index.json",
        "scheduler/scheduler_config.json",
    ]
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "FEATPipeline"
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    theirs = DDIMScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert theirs.config.num_train_timesteps == 1000
    state = FEAT.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(state[name], each) for name, each in pipeline.model.state_dict().items())


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


INDEX, SCHEDULER, CODEC = (
    "model_index.json",
    "scheduler/scheduler_config.json",
    "codec/config.json",
)
FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no index": (lambda f: (f / INDEX).unlink(), r"model_index\.json cannot be read"),
    "no scheduler": (lambda f: (f / SCHEDULER).unlink(), r"scheduler_config\.json cannot be read"),
    "no codec": (lambda f: (f / CODEC).unlink(), r"codec.config\.json cannot be read"),
    "no model": (lambda f: (f / "model" / "config.json").unlink(), r"model.config\.json"),
    "foreign": (
        lambda f: rewrite(f / INDEX, _class_name="StableDiffusionPipeline"),
        "configures 'StableDiffusionPipeline', where FEATPipeline was expected",
    ),
    "size": (lambda f: rewrite(f / INDEX, height=10**9), "damaged: height"),
    "part": (lambda f: rewrite(f / INDEX, codec=["os"]), "damaged: codec"),
    "module": (lambda f: rewrite(f / SCHEDULER, _class_name="os.system"), "configures 'os.system'"),
    "steps": (lambda f: rewrite(f / SCHEDULER, num_train_timesteps=10**12), "or equal to 100000"),
    "betas": (lambda f: rewrite(f / SCHEDULER, beta_end=9), "beta_end"),
    "field": (lambda f: rewrite(f / SCHEDULER, timestep_spacing=7), "7 is not supported"),
    "codec": (lambda f: rewrite(f / CODEC, kind="vae"), "damaged: kind"),
    "levels": (lambda f: rewrite(f / CODEC, levels=3), "a codec whose latents"),
    "details": (lambda f: rewrite(f / CODEC, detail_channels=99), "detail_channels is 99"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_with_a_folder_is_told(
    pipeline: FEATPipeline, tmp_path: Path, fault: str
) -> None:
    pipeline.save_pretrained(tmp_path)
    spoil, message = FAULTS[fault]
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=message) as caught:
        FEATPipeline.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_network_s_own_folder_is_told_from_a_pipeline_s(tmp_path: Path) -> None:
    opened().save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="a network alone"):
        FEATPipeline.from_pretrained(tmp_path)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    study = StudyConfig(
        name="tiny",
        model=TINY,
        clips={"frames": 2, "size_px": 16},
        sampler=SamplerConfig(steps=STEPS, num_clips=3, seed=5),
    )
    store = RunStore.create(tmp_path / "run", study)
    for number in (0, 1):
        for seed, (kind, path) in enumerate(
            [("global", store.checkpoint(number)), ("ema", store.ema(number))]
        ):
            state = opened(seed=10 * number + seed).state_dict()
            write_weights(path, state, kind=kind, model=TINY)
    return store


def test_a_run_s_clips_are_its_pipeline_s(store: RunStore) -> None:
    clips = generate_clips(store)
    assert clips.dtype == np.uint8 and clips.shape == (3, 2, 16, 16, 3)
    frames = run_pipeline(store)(seeds=[5, 6, 7], num_inference_steps=STEPS).frames
    np.testing.assert_array_equal(clips, np.round(frames * 255))
    assert clips.std() > 5


def test_each_round_and_kind_of_weights_is_another_pipeline(store: RunStore) -> None:
    biases = {
        run_pipeline(store, round_number=number, weights=weights).model.skip.bias[0].item()
        for number in (0, 1)
        for weights in ("ema", "global")
    }
    assert len(biases) == 4
    with pytest.raises(RunError, match="no weights of round 2"):
        run_pipeline(store, round_number=2)
