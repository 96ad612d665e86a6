"""An update as masked integers: what travels and what is summed with secure aggregation.

What a site's training has changed is put on a grid, tensor by tensor in name order, and masked at
the tensor's place in the masks' streams. Floats alone: integers and booleans are the server's own.
Whole numbers that only their sum may tell (counters) go before the first tensor.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from feat_fed.config import StudyConfig
from feat_fed.federate import unpack
from feat_fed.federate.buckets import Described, pack_groups
from feat_fed.model.state import TensorSpec
from feat_fed.secagg import Grid, Masks, counters_from_ring, counters_to_ring, places
from feat_fed.secagg.quantise import Ring

COUNTERS = "counters/"
"""The name of their tensor; no tensor of a model has it."""

Update = Mapping[str, Tensor]


def num_counters(study: StudyConfig) -> int:
    """Return how many counters go with an update: whether it was within an adaptive bound."""
    central = study.privacy.central
    return 1 if central is not None and central.clipping == "adaptive" else 0


def largest_move(study: StudyConfig, clip_norm: float | None = None) -> float:
    """Return how far a weight may move in a round before it is cut off.

    Parameters
    ----------
    clip_norm
        To which sites clip their updates in this round; None: they do not.
    """
    aggregation, most = study.privacy.secure_aggregation, study.screening.max_move
    if aggregation is not None and aggregation.largest_value is not None:
        return aggregation.largest_value
    if clip_norm is not None:
        return clip_norm
    if most is None:
        raise ValueError("a study that says nowhere how far a weight may move is not read")
    return most * study.training.learning_rate * study.training.local_steps


@dataclass(frozen=True)
class OwnUpdate:
    """What a site's training has changed, on the grid and not masked yet.

    Raises
    ------
    TrainingError
        By each method, if a weight is not finite.
    """

    trained: Mapping[str, Tensor]
    received: Mapping[str, Tensor]
    grid: Grid
    counters: Sequence[int] = ()

    def digest(self) -> str:
        """Return the SHA-256 of all its integers."""
        sha = hashlib.sha256()
        for name, ring, _ in self._rings():
            sha.update(f"{name} {ring.size}\n".encode())
            sha.update(ring.data)
        return sha.hexdigest()

    def masked(self, masks: Masks) -> list[bytes]:
        """Return it in buckets that say nothing without the other sites'."""

        def groups() -> Iterator[Mapping[str, Tensor]]:
            for name, ring, start in self._rings():
                masks.apply(ring, start)
                yield {name: _signed(ring)}

        return pack_groups(groups())

    def _rings(self) -> Iterator[tuple[str, Ring, int]]:
        """Yield each tensor's name, integers and place; a tensor at a time is in memory."""
        if self.counters:
            yield COUNTERS, counters_to_ring(self.counters), 0
        for name, start in places(_sizes(self.received), counters=len(self.counters)).items():
            moved = self.trained[name].to(torch.float32) - self.received[name].to(torch.float32)
            yield name, self.grid.to_ring(moved), start


def unpack_masked(
    buckets: Sequence[bytes], weights: Mapping[str, Described], *, counters: int = 0
) -> dict[str, Tensor]:
    """Read what :class:`OwnUpdate` made and came over the wire, still masked; int32.

    Parameters
    ----------
    weights
        The model's.
    counters
        How many there must be.

    Raises
    ------
    ProtocolError
        If it is of another form.
    """
    return unpack(buckets, masked_schema(weights, counters=counters))


def masked_schema(weights: Mapping[str, Described], *, counters: int = 0) -> dict[str, TensorSpec]:
    """Return what a masked update of a model must look like."""
    schema = {
        name: TensorSpec(tuple(each.shape), torch.int32)
        for name, each in weights.items()
        if each.dtype.is_floating_point
    }
    return schema | ({COUNTERS: TensorSpec((counters,), torch.int32)} if counters else {})


def sum_of(
    updates: Iterable[Update],
    names: Sequence[str],
    *,
    weights: Mapping[str, Tensor],
    grid: Grid,
    masks: Masks,
    counters: int = 0,
) -> dict[str, Tensor]:
    """Return the sum of sites' updates for some tensors, in float64.

    Parameters
    ----------
    updates
        Of every site whose update is in the sum, with the named tensors; still masked.
    weights
        The model's.
    masks
        What is left on the sum.
    """
    starts = places(_sizes(weights), counters=counters)
    totals = _totals(updates, names)
    for name, total in totals.items():
        masks.apply(total, starts[name])
    return {name: torch.from_numpy(grid.sum_from_ring(total)) for name, total in totals.items()}


def counted(updates: Iterable[Update], *, masks: Masks, sites: int) -> list[int]:
    """Return the sums of sites' counters, each of which a site raises by one at most.

    Raises
    ------
    ProtocolError
        If a site has counted otherwise.
    """
    [total] = _totals(updates, [COUNTERS]).values()
    masks.apply(total, 0)
    return counters_from_ring(total, most=sites)


def _totals(updates: Iterable[Update], names: Sequence[str]) -> dict[str, Ring]:
    """Return the sums modulo 2^32."""
    totals = dict[str, Ring]()
    for update in updates:
        for name in names:
            ring = update[name].contiguous().numpy().view(np.uint32)
            if name in totals:
                np.add(totals[name], ring, out=totals[name])
            else:
                totals[name] = ring.copy()
    return totals


def _sizes(weights: Mapping[str, Tensor]) -> dict[str, int]:
    return {
        name: math.prod(each.shape) for name, each in weights.items() if each.is_floating_point()
    }


def _signed(ring: Ring) -> Tensor:
    """View as what safetensors and torch know everywhere."""
    return torch.from_numpy(ring.view(np.int32))
