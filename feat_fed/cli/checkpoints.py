"""``feat-fed import-checkpoint`` and ``feat-fed export``: weights from others, and for them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from feat_fed.cli.console import say
from feat_fed.config import DiffusionConfig, SamplerConfig
from feat_fed.errors import ConfigError
from feat_fed.report.run_store import RunStore

_PUBLISHED_FRAMES, _PUBLISHED_SIDE = 16, 16
"""Of the latents on which the released networks were trained: 128 px, 8 px a latent pixel."""

_PUBLISHED_CHANNELS = 4
_PUBLISHED_CODEC = "Stable Diffusion's VAE (4 channels, 8 px a latent pixel, scaled by 0.18215)"

Out = Annotated[Path, typer.Argument(help="Where to write; nothing may be there yet.")]


def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="A released checkpoint, such as FEAT_S_col.pt.")],
    out: Out,
    weights: Annotated[
        Literal["ema", "model"] | None,
        typer.Option(help="Which of a training file's; the average if it has one."),
    ] = None,
    wkv: Annotated[
        Literal["published", "paper"],
        typer.Option(
            help="published: what the released kernel computes; paper: for a file that "
            "`feat-fed export` made of a model trained here."
        ),
    ] = "published",
) -> None:
    """Make a pipeline's folder of a released checkpoint; no code in it is run."""
    from feat_fed.diffusion import make_scheduler
    from feat_fed.model import load_published, published_heads, read_published
    from feat_fed.pipeline import FEATPipeline
    from feat_fed.pipeline_folder import ClipSize

    _refuse_existing(out)
    state = read_published(file, weights=weights)
    model = load_published(state, num_heads=published_heads(state), wkv=wkv)
    config = model.config
    codec = _PUBLISHED_CODEC
    if config.in_channels != _PUBLISHED_CHANNELS:
        codec = f"a codec of {config.in_channels} channels that the file does not name"
    FEATPipeline(
        model,
        make_scheduler(SamplerConfig(kind="ddpm"), DiffusionConfig()),
        size=ClipSize(num_frames=_PUBLISHED_FRAMES, height=_PUBLISHED_SIDE, width=_PUBLISHED_SIDE),
        codec_name=codec,
    ).save_pretrained(out)
    say(
        f"{out}: {config.num_trios} trios of width {config.hidden_size}, {config.num_heads} heads, "
        f"{sum(each.numel() for each in model.parameters()):,} parameters"
    )
    say(f"it samples latents of {codec}; parameters that were never trained are left out")


def export(
    source: Annotated[
        Path, typer.Argument(metavar="RUN_OR_FOLDER", help="A run, or a pretrained folder.")
    ],
    out: Out,
    form: Annotated[
        Literal["published", "pretrained"],
        typer.Option(
            "--format", help="pretrained: a pipeline's folder; published: a .pt like released ones."
        ),
    ] = "pretrained",
    round_number: Annotated[
        int | None, typer.Option("--round", min=0, help="Of a run; the last if unset.")
    ] = None,
    weights: Annotated[
        Literal["ema", "global"] | None,
        typer.Option(help="Of a run: the average over rounds, or the round's; ema if unset."),
    ] = None,
    codec_weights: Annotated[
        Path | None,
        typer.Option(help="Of a run's learned codec; the study's codec.weights if unset."),
    ] = None,
) -> None:
    """Write weights in a form that other programs read."""
    from feat_fed.generate import run_pipeline
    from feat_fed.model import FEAT, write_published
    from feat_fed.pipeline import FEATPipeline

    _refuse_existing(out)
    if not source.is_dir():
        raise ConfigError(
            f"{source} does not exist; name a run's folder, such as runs/demo, or a pretrained one"
        )
    run = RunStore(source) if (source / "study.yaml").is_file() else None
    if run is None and (round_number, weights, codec_weights) != (None, None, None):
        raise ConfigError(
            f"{source} is not a run and has no rounds: leave out --round, --weights and "
            "--codec-weights"
        )
    found = run and run_pipeline(
        run, round_number=round_number, weights=weights or "ema", codec_weights=codec_weights
    )
    if form == "pretrained":
        (found or FEATPipeline.from_pretrained(source)).save_pretrained(out)
        say(f"{out}: read it with FEATPipeline.from_pretrained")
        return
    model = found.model if found else FEAT.from_pretrained(source)
    write_published(out, model)
    say(f"{out}: read it with load_published, num_heads {model.config.num_heads}")
    if model.config.wkv == "paper":
        say(
            "it was trained with the paper's WKV, which the released kernel does not compute: "
            "pass wkv='paper'; the released code will give other clips"
        )


def _refuse_existing(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(f"{out} exists; name a place where nothing is, or remove it")
