"""The released checkpoints' key names, both ways.

Released FEAT files also hold parameters that never get a gradient: a frame convolution in
spatial blocks and an ``alpha`` in channel blocks. They are kept out of the network;
:func:`to_published` writes them back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from feat_fed.config import FEATConfig
from feat_fed.config.model import WKVMode
from feat_fed.errors import CheckpointError
from feat_fed.model.blocks import feed_forward_width
from feat_fed.model.feat import FEAT

Shape = tuple[int, ...]

_FOREIGN = "this is not a released FEAT state dictionary"
_MOST_NAMED, _LONGEST_NAME = 8, 80


class _Entry(NamedTuple):
    """One tensor of ours and the published ones that, stacked on axis 0, make it."""

    ours: str
    published: tuple[str, ...]
    shape: Shape
    """Of each published tensor."""


@torch.no_grad()
def load_published(
    state_dict: Mapping[str, Tensor], *, num_heads: int, wkv: WKVMode = "published"
) -> FEAT:
    """Build the network that a released state dictionary describes, with its weights.

    Parameters
    ----------
    state_dict
        Tensors under their published names.
    num_heads
        Heads of the channel attention, 8 in FEAT-S and 16 in FEAT-L; must be the file's
        (:func:`published_heads`).
    wkv
        ``published`` for checkpoints trained with the released kernel.

    Raises
    ------
    CheckpointError
        If a tensor is missing, unknown or of another shape, or the heads are others; the
        message names what it is.
    """
    found = published_heads(state_dict)
    if found != num_heads:
        raise CheckpointError(
            f"num_heads is {num_heads}, but restormers.0.attn.temperature has {found} heads; "
            f"pass num_heads={found}, or the file that was meant"
        )
    config = _infer_config(state_dict, num_heads, wkv)
    table, unused = list(_table(config)), _never_trained(config)
    expected = {name: entry.shape for entry in table for name in entry.published} | unused
    _compare(state_dict, expected)
    model = FEAT(config)
    own = model.state_dict()
    for entry in table:
        parts = torch.stack([state_dict[name] for name in entry.published])
        own[entry.ours].copy_(parts.view(own[entry.ours].shape))
    return model


def published_heads(state_dict: Mapping[str, Tensor]) -> int:
    """Return the heads of the channel attention, the length of ``attn.temperature``.

    Raises
    ------
    CheckpointError
        If that tensor is missing.
    """
    try:
        return int(state_dict["restormers.0.attn.temperature"].shape[0])
    except (KeyError, IndexError) as error:
        raise _misses(error) from None


def to_published(model: FEAT, like: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the network's weights under their published names.

    Parameters
    ----------
    model
        The network.
    like
        A released state dictionary from which the tensors that never get a gradient are
        taken, so that a file goes in and out unchanged; zeros without it.

    Raises
    ------
    CheckpointError
        If the network has class labels, for which released files have no name.
    """
    if model.config.num_classes:
        raise CheckpointError(
            f"a network with {model.config.num_classes} classes has no published form; only an "
            "unconditional one (num_classes 0) has"
        )
    own = model.state_dict()
    state: dict[str, Tensor] = {}
    for entry in _table(model.config):
        parts = own[entry.ours].view(len(entry.published), *entry.shape)
        state.update(zip(entry.published, parts.clone(), strict=True))
    for name, shape in _never_trained(model.config).items():
        state[name] = torch.zeros(shape) if like is None else like[name].clone()
    return state


def _infer_config(state_dict: Mapping[str, Tensor], num_heads: int, wkv: WKVMode) -> FEATConfig:
    try:
        hidden, channels, patch, _ = state_dict["x_embedder.proj.weight"].shape
        expanded = state_dict["restormers.0.ffn.project_out.weight"].shape[1]
    except (KeyError, ValueError, IndexError) as error:
        raise _misses(error) from None
    trios = {match[1] for key in state_dict if (match := re.match(r"restormers\.(\d+)\.", key))}
    try:
        return FEATConfig(
            in_channels=channels,
            hidden_size=hidden,
            num_trios=len(trios),
            num_heads=num_heads,
            patch_size=patch,
            mlp_ratio=expanded / max(hidden, 1),
            wkv=wkv,
        )
    except ValidationError as error:
        raise CheckpointError(f"{_FOREIGN}: {error.errors()[0]['msg']}") from None


def _misses(error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{_FOREIGN}: {error} is missing or misshapen; it needs the tensors at its top level "
        "under their published names"
    )


def _table(config: FEATConfig) -> Iterator[_Entry]:
    C, p, channels = config.hidden_size, config.patch_size, config.in_channels
    yield _Entry("patch.weight", ("x_embedder.proj.weight",), (C, channels, p, p))
    yield _Entry("patch.bias", ("x_embedder.proj.bias",), (C,))
    yield from _linear("time.mlp.0", "t_embedder.mlp.0", C, 256)
    yield from _linear("time.mlp.2", "t_embedder.mlp.2", C, C)
    for i in range(config.num_trios):
        yield from _guided(config, f"trios.{i}.spatial", f"blocks.{2 * i}", num_passes=2)
        yield from _guided(config, f"trios.{i}.temporal", f"blocks.{2 * i + 1}", num_passes=1)
        yield from _channel(config, f"trios.{i}.channel", f"restormers.{i}")
    yield from _linear("final.linear", "final_layer.linear", 2 * channels * p * p, C)
    yield from _linear("final.adaln.1", "final_layer.adaLN_modulation.1", 2 * C, C)
    yield _Entry("skip.weight", ("res_conv.weight",), (2 * channels, channels, 1, 1))
    yield _Entry("skip.bias", ("res_conv.bias",), (2 * channels,))


def _guided(config: FEATConfig, ours: str, theirs: str, *, num_passes: int) -> Iterator[_Entry]:
    C, mixer, att = config.hidden_size, f"{ours}.mixer", f"{theirs}.att"
    yield from _linear(f"{ours}.adaln.1", f"{theirs}.adaLN_modulation.1", 6 * C, C)
    for n in (1, 2):
        yield from _linear(f"{ours}.norm{n}", f"{theirs}.ln{n}", C)
        yield _Entry(f"{ours}.gamma{n}", (f"{theirs}.gamma{n}",), (C,))
    kvr = tuple(f"{att}.{name}.weight" for name in ("key", "value", "receptance"))
    yield _Entry(f"{mixer}.kvr.weight", kvr, (C, C))
    yield _Entry(f"{mixer}.output.weight", (f"{att}.output.weight",), (C, C))
    yield _Entry(f"{mixer}.alpha", (f"{att}.alpha",), (2, C))
    yield _Entry(f"{mixer}.decay", (f"{att}.spatial_decay",), (num_passes, C))
    yield _Entry(f"{mixer}.bonus", (f"{att}.spatial_first",), (num_passes, C))
    yield _Entry(f"{mixer}.conv.weight", (f"{att}.dwconv2d.weight",), (C, 1, 3, 3))
    if num_passes == 1:
        yield _Entry(f"{mixer}.frame_conv.weight", (f"{att}.dwconv1d.weight",), (C, 1, 3))
    yield from _feed_forward(config, ours, theirs)


def _channel(config: FEATConfig, ours: str, theirs: str) -> Iterator[_Entry]:
    C, mixer, attn = config.hidden_size, f"{ours}.mixer", f"{theirs}.attn"
    yield from _linear(f"{ours}.adaln.1", f"{theirs}.adaLN_modulation.1", 6 * C, C)
    for n in (1, 2):
        yield from _linear(f"{ours}.norm{n}", f"{theirs}.norm{n}", C)
    yield _Entry(f"{mixer}.temperature", (f"{attn}.temperature",), (config.num_heads, 1, 1))
    yield _Entry(f"{mixer}.qkv.weight", (f"{attn}.qkv.weight",), (3 * C, C, 1, 1))
    yield _Entry(f"{mixer}.conv.weight", (f"{attn}.qkv_dwconv.weight",), (3 * C, 1, 3, 3))
    yield _Entry(f"{mixer}.output.weight", (f"{attn}.project_out.weight",), (C, C, 1, 1))
    yield from _feed_forward(config, ours, theirs)


def _feed_forward(config: FEATConfig, ours: str, theirs: str) -> Iterator[_Entry]:
    C, D = config.hidden_size, feed_forward_width(config)
    for name, published, shape in (
        ("expand", "project_in", (2 * D, C, 1, 1)),
        ("conv", "dwconv", (2 * D, 1, 3, 3)),
        ("project", "project_out", (C, D, 1, 1)),
    ):
        theirs_weight = f"{theirs}.ffn.{published}.weight"
        yield _Entry(f"{ours}.feed_forward.{name}.weight", (theirs_weight,), shape)


def _linear(ours: str, theirs: str, *shape: int) -> Iterator[_Entry]:
    yield _Entry(f"{ours}.weight", (f"{theirs}.weight",), shape)
    yield _Entry(f"{ours}.bias", (f"{theirs}.bias",), shape[:1])


def _never_trained(config: FEATConfig) -> dict[str, Shape]:
    C = config.hidden_size
    shapes: dict[str, Shape] = {}
    for i in range(config.num_trios):
        shapes[f"blocks.{2 * i}.att.dwconv1d.weight"] = (C, 1, 3)
        shapes[f"restormers.{i}.attn.alpha"] = (2 * C,)
    return shapes


def _compare(state_dict: Mapping[str, Tensor], expected: Mapping[str, Shape]) -> None:
    missing = [f"{name} is missing" for name in sorted(expected.keys() - state_dict.keys())]
    unknown = [f"{_shown(name)} is unknown" for name in sorted(state_dict.keys() - expected.keys())]
    misshapen = [
        f"{name} is {tuple(state_dict[name].shape)}, not {shape}"
        for name, shape in expected.items()
        if name in state_dict and tuple(state_dict[name].shape) != shape
    ]
    if faults := [each for kind in (missing, unknown, misshapen) for each in _first_of(kind)]:
        raise CheckpointError(f"{_FOREIGN}: {'; '.join(faults)}")


def _first_of(faults: list[str]) -> list[str]:
    more = len(faults) - _MOST_NAMED
    return [*faults[:_MOST_NAMED], *([f"and {more} more like it"] if more > 0 else [])]


def _shown(name: str) -> str:
    """Return a name out of a stranger's file, fit for a terminal."""
    plain = name if name.isprintable() else ascii(name)
    return plain if len(plain) <= _LONGEST_NAME else plain[:_LONGEST_NAME] + "..."
