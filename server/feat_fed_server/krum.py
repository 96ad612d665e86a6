"""(Multi-)Krum over updates that do not fit into memory together.

Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent".
A site's score is the sum of the squared distances from its update to the n - f - 2 nearest ones;
the sites with the lowest scores are averaged.

Flower's MultiKrum scores and chooses. It would take the distances of the whole models in their
own precision, as ||x||^2 + ||y||^2 - 2 x.y, where nearly all digits cancel: local models lie
close together and far from the origin. So it is handed n points in n dimensions that have the
same distances as the updates, which come from the updates' Gram matrix in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import MultiKrum
from torch import Tensor

_WEIGHT, _CHOSEN = "weight", "chosen"


class Krum:
    """Choose the sites whose updates lie in the midst of the others.

    Parameters
    ----------
    malicious_sites
        f, updates that may be anything.
    keep_sites
        Updates to choose; more than one is multi-Krum.
    """

    def __init__(self, *, malicious_sites: int, keep_sites: int) -> None:
        self._flower = MultiKrum(
            num_malicious_nodes=malicious_sites,
            num_nodes_to_select=keep_sites,
            weighted_by_key=_WEIGHT,
        )

    def choose(
        self, sites: Sequence[str], weights: Sequence[int], groups: Iterable[Sequence[Tensor]]
    ) -> list[int]:
        """Return the places in ``sites`` of the chosen.

        Parameters
        ----------
        weights
            Of the sites, positive.
        groups
            For each group of tensors, what each site changed in it, flat and of float64.
        """
        points = distances_kept(gram(len(sites), groups))
        replies = [
            _reply(point, weight=weight, place=place, of=len(sites))
            for place, (point, weight) in enumerate(zip(points, weights, strict=True))
        ]
        _, metrics = self._flower.aggregate_train(1, replies)
        # The mean of the chosen sites' unit vectors tells which they are.
        shares = metrics[_CHOSEN] if metrics else []
        return [place for place, share in enumerate(_floats(shares)) if share > 0]


def gram(num_sites: int, groups: Iterable[Sequence[Tensor]]) -> Tensor:
    """Return the inner products of all sites' updates, summed over the groups; ``(n, n)``."""
    total = torch.zeros(num_sites, num_sites, dtype=torch.float64)
    for updates in groups:
        stacked = torch.stack(list(updates))
        total += stacked @ stacked.T
    return total


def distances_kept(gram_nn: Tensor) -> Tensor:
    """Return points ``(n, n)``, a row a site, with this Gram matrix: V sqrt(L) of V L V^T."""
    eigenvalues, vectors = torch.linalg.eigh(gram_nn)
    points: Tensor = vectors * eigenvalues.clamp(min=0).sqrt()
    return points


def _reply(point: Tensor, *, weight: int, place: int, of: int) -> Message:
    unit = [float(each == place) for each in range(of)]
    content = RecordDict(
        {
            "arrays": ArrayRecord({"point": Array(point.numpy())}),
            "metrics": MetricRecord({_WEIGHT: weight, _CHOSEN: unit}),
        }
    )
    return Message(content, dst_node_id=1, message_type="train")


def _floats(value: object) -> list[float]:
    return [float(each) for each in value] if isinstance(value, list) else []
