"""Released checkpoints as files: the pickles of ``torch.save``, read without running any code."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from feat_fed.atomic import atomic_path
from feat_fed.errors import CheckpointError
from feat_fed.model.feat import FEAT
from feat_fed.model.published import to_published

PublishedWeights = Literal["ema", "model"]

_KINDS: tuple[PublishedWeights, ...] = ("ema", "model")
"""Keys under which training scripts save the average and the weights, the better one first."""

_DATA_PARALLEL = "module."


def read_published(path: Path, *, weights: PublishedWeights | None = None) -> dict[str, Tensor]:
    """Return the state dictionary of a released file, under its published names.

    The file may be the state dictionary itself, or a dictionary that holds one under ``ema``
    or ``model``; the prefix that data-parallel training gives every name is taken off.

    Parameters
    ----------
    path
        A file of ``torch.save``.
    weights
        Which one; the average if there is one and None.

    Raises
    ------
    CheckpointError
        If the file is absent, truncated or none of ``torch.save``, if it asks for code to be
        run when it is opened (nothing of it is run), if it holds something else than tensors,
        or not the weights that were asked for.
    """
    state: dict[str, Tensor] = {}
    faults: list[str] = []
    for name, value in _choose(path, _unpickle(path), weights).items():
        if not isinstance(name, str):
            faults.append(f"a name is a {type(name).__name__}")
        elif not isinstance(value, Tensor):
            faults.append(f"{name[:80]!a} is a {type(value).__name__}")
        elif fault := _fault(value):
            faults.append(f"{name[:80]!a} {fault}")
        else:
            state[name] = value.detach()
    if faults:
        more = f"; and {len(faults) - 4} more" if len(faults) > 4 else ""
        raise CheckpointError(
            f"{path} is not a dictionary of names and tensors: {'; '.join(faults[:4])}{more}"
        )
    if all(name.startswith(_DATA_PARALLEL) for name in state):
        return {name.removeprefix(_DATA_PARALLEL): tensor for name, tensor in state.items()}
    return state


def write_published(path: Path, model: FEAT) -> None:
    """Write a network as a released file is: its state dictionary, by ``torch.save``.

    Raises
    ------
    CheckpointError
        If released files have no place for a part of the network, or the file cannot be
        written.
    """
    state = {name: tensor.cpu() for name, tensor in to_published(model).items()}
    try:
        with atomic_path(path) as part:
            torch.save(state, part)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from error


def _unpickle(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"there is no file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the file's age and make
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's bytes lead the reader anywhere
        if code := re.search(r"GLOBAL ([\w.]{1,80})", str(error)):
            raise CheckpointError(
                f"{path} asks for {code[1]} when it is opened, and a checkpoint needs no code: "
                "nothing of it was run; ask whoever made it for a file of tensors alone"
            ) from None
        raise CheckpointError(
            f"{path} is truncated or not a file of torch.save ({type(error).__name__}); fetch it "
            "again"
        ) from None
    return content


def _choose(
    path: Path, content: object, weights: PublishedWeights | None
) -> Mapping[object, object]:
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dictionary")
    found = [kind for kind in _KINDS if isinstance(content.get(kind), Mapping)]
    if not found and weights is None:
        return content
    if not found:
        raise CheckpointError(
            f"{path} is one state dictionary or none, without {weights!r} in it; leave the choice "
            "of weights out"
        )
    if weights is not None and weights not in found:
        raise CheckpointError(f"{path} holds {found[0]!r} weights alone, not {weights!r}")
    chosen: Mapping[object, object] = content[weights or found[0]]
    return chosen


def _fault(tensor: Tensor) -> str | None:
    """Return why a tensor is none of a state dictionary, or None."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu":
        return "is a tensor without plain content"
    if not tensor.is_floating_point():
        return f"is {str(tensor.dtype).removeprefix('torch.')}, not floating-point numbers"
    if tensor.untyped_storage().nbytes() < tensor.nbytes:
        return "claims more numbers than the file holds"
    return None
