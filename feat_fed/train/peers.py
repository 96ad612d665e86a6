"""The processes that train one model together, as one of them sees it.

Each takes its share of a batch. What all must do alike is decided on sums, or by the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Peers:
    """Number ``rank`` of ``size`` processes; all call the same methods in the same order.

    A process alone (:data:`ALONE`) needs no process group, and gets back what it gives.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")  # noqa: RUF009
    """Where the process group exchanges tensors."""

    def share(self, number: int) -> range:
        """Return which of ``number`` things are this process's; counts differ by one at most."""
        return _share(number, self.rank, self.size)

    def largest_share(self, number: int) -> int:
        """Return how many things a process takes at most."""
        return len(_share(number, 0, self.size))

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, added up in float64."""
        if self.size == 1:
            return list(values)
        return self._reduced(values, distributed.ReduceOp.SUM)

    def least(self, value: int) -> int:
        """Return the least value of any process."""
        if self.size == 1:
            return value
        return int(self._reduced([value], distributed.ReduceOp.MIN)[0])

    def of_first(self, value: int) -> int:
        """Return the first process's value."""
        return round(self.sum([value if self.rank == 0 else 0])[0])

    def add_up(self, tensor: Tensor) -> None:
        """Replace a tensor on the group's device by its sum over all processes."""
        if self.size > 1:
            distributed.all_reduce(tensor)

    def _reduced(self, values: Sequence[float], how: distributed.ReduceOp.RedOpType) -> list[float]:
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(tensor, op=how)
        return [float(each) for each in tensor.tolist()]


ALONE = Peers()


def _share(number: int, rank: int, size: int) -> range:
    each, more = divmod(number, size)
    first = rank * each + min(rank, more)
    return range(first, first + each + (rank < more))
