"""The sum of a round's updates, group for group: all that some aggregations know of the sites."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Summed:
    """What the sites have moved the weights by, together.

    Parameters
    ----------
    num_sites
        m: sites whose updates are in the sum.
    num_within
        Sites among them whose update was within the round's bound, where one is counted.
    totals
        Sums over all floats, a group of tensors at a time, in float64; to be read once.
    """

    num_sites: int
    num_within: int
    totals: Iterator[dict[str, Tensor]]

    def means(self, previous: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """Yield the mean of the sites' weights, in float32 at least."""
        for totals in self.totals:
            yield {
                name: moved_by(previous[name], total / self.num_sites)
                for name, total in totals.items()
            }


def moved_by(before: Tensor, mean: Tensor) -> Tensor:
    """Return weights that have moved, in float32 at least."""
    exact = torch.promote_types(before.dtype, torch.float32)
    return (before.double() + mean).to(exact)
