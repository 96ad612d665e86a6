"""The bytes of weights that a round moves, against what the site allows."""

from __future__ import annotations

import math

from feat_fed.config import FEATConfig, LimitsConfig
from feat_fed.model.state import state_schema
from feat_fed.protocol import Task
from feat_fed_client.limits import DeclinedError

_GB = 10**9


def round_bytes(model: FEATConfig) -> tuple[int, int]:
    """Return the bytes of weights that a round brings to a site and takes from it.

    Their headers, some hundredths of a per cent, are not counted.
    """
    size = sum(math.prod(spec.shape) * spec.dtype.itemsize for spec in state_schema(model).values())
    return size, size


def require_traffic(limits: LimitsConfig, model: FEATConfig, task: Task) -> None:
    """Raise :class:`.limits.DeclinedError` if a task's weights are more than a round may take."""
    down, up = round_bytes(model)
    total = down + (up if task == "train" else 0)
    if limits.gb_per_round is not None and total > limits.gb_per_round * _GB:
        raise DeclinedError(
            "traffic",
            f"the weights of a round are {total / _GB:.3g} GB in and out together, and "
            f"limits.gb_per_round allows {limits.gb_per_round:g} GB; this round's are here "
            "already, so raise the limit or leave the study",
        )
