"""Of how many neighbours and shares a round is made, and who is whose neighbour."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Mapping, Sequence

from pydantic import Field

from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import SecureAggregationConfig
from feat_fed.config.study import Name
from feat_fed.errors import DropoutError
from feat_fed.secagg.messages import LEAST_SITES, MOST_SITES

Graph = Mapping[Name, frozenset[Name]]
"""Each site's neighbours, without itself."""


class Terms(StrictModel):
    """The k and t of Bell et al. (CCS 2020, ePrint 2020/704) for one round's sites."""

    neighbours: int = Field(ge=2, lt=MOST_SITES)
    """Of each site; it deals its secrets' shares to them and to itself."""
    threshold: int = Field(ge=2, le=MOST_SITES)
    """Shares of which a secret is put together again: more than half of those dealt, so that a
    site's two secrets are not both found where each holder gives a share of one of them."""


def terms_of(config: SecureAggregationConfig, sites: int) -> Terms:
    """Return the terms of a round with so many sites.

    Where the configured threshold is no majority of a site and its neighbours, it is one more
    than half of them.

    Raises
    ------
    DropoutError
        If there are too few sites.
    """
    if sites < LEAST_SITES:
        raise DropoutError(
            f"secure aggregation with {sites} sites; it needs at least {LEAST_SITES}, since each "
            "of two would read the other's update out of the sum"
        )
    if sites > MOST_SITES:
        raise DropoutError(f"secure aggregation with {sites} sites; at most {MOST_SITES} fit")
    neighbours = min(config.neighbours or sites - 1, sites - 1)
    holders = neighbours + 1
    wanted = config.threshold or -(-2 * holders // 3)
    if wanted > holders:
        raise DropoutError(
            f"privacy.secure_aggregation.threshold is {wanted}, and a site and its neighbours are "
            f"only {holders}; wait for more sites, or lower it"
        )
    return Terms(neighbours=neighbours, threshold=max(wanted, holders // 2 + 1))


def graph_of(names: Sequence[Name], neighbours: int, seed: str) -> Graph:
    """Return a k-regular graph of the sites: a Harary graph over a permutation by the seed.

    Algorithm 1 of Bell et al. The permutation is by SHA-256 of seed and name, so that all who
    know both make the same graph.

    Parameters
    ----------
    neighbours
        k; even, or one less than the number of sites (all are neighbours then).
    """
    if neighbours >= len(names) - 1:
        return {name: frozenset(names) - {name} for name in names}
    ring = sorted(names, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest())
    reach = [each for each in range(-(neighbours // 2), neighbours // 2 + 1) if each]
    return {
        name: frozenset(ring[(place + far) % len(ring)] for far in reach)
        for place, name in enumerate(ring)
    }


def is_connected(graph: Graph, among: Collection[Name]) -> bool:
    """Return whether all of these sites hang together by edges between them.

    The sum of each part that hangs together could be told from the masked values alone.
    """
    left = set(among)
    todo = deque(sorted(left)[:1])
    while todo:
        name = todo.popleft()
        if name in left:
            left.discard(name)
            todo.extend(graph[name] & left)
    return not left
