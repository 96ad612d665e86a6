"""From a round's updates to the next global weights, by Flower's strategies.

Flower's strategies take all replies at once, which is a model a site in memory. They work
coordinate by coordinate, so here they are called for some tens of megabytes of tensors at a
time, with sites in name order: the order of arrival changes no byte, and the same updates give
the same bytes again.

Which tensors are aggregated is one rule: floats, in float32 at least (halves are cast up and
back); integers and booleans are counters and masks, of which a mean means nothing, and stay the
server's. The EMA is the server's own over the global weights, and no site sends one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import torch
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg
from torch import Tensor

from feat_fed.config import StrategyConfig
from feat_fed.errors import FederationError
from feat_fed.finite import all_finite
from feat_fed.protocol import Report
from feat_fed_server.flower_arrays import WEIGHT_KEY, reply_of, tensors_of
from feat_fed_server.inbox import Inbox
from feat_fed_server.krum import Krum
from feat_fed_server.server_optimiser import build_server_optimiser

log = logging.getLogger(__name__)

GROUP_BYTES = 128 * 1024**2
"""Of all sites' tensors that are in memory together."""


class ServerStrategy:
    """A study's strategy: one of Flower's that combines, and maybe one that optimises.

    It holds no state of its own between rounds.
    """

    def __init__(self, config: StrategyConfig) -> None:
        self._config = config
        self._combining = _combining(config)
        self._optimiser = build_server_optimiser(config)

    def aggregate(
        self,
        round_number: int,
        inbox: Inbox,
        previous: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the next global weights and the server optimiser's state.

        Parameters
        ----------
        inbox
            At least one update.
        state
            What the round before returned; empty in the first.

        Raises
        ------
        FederationError
            If the result is not finite.
        CheckpointError
            If an update cannot be read any more.
        """
        means = self._means(round_number, inbox, previous)
        return self.finish(round_number, means, previous, state)

    def finish(
        self,
        round_number: int,
        means: Iterable[Mapping[str, Tensor]],
        previous: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the same from the mean of the sites' weights, however that was come by.

        Parameters
        ----------
        means
            Group for group, of all floats; in float32 at least.

        Raises
        ------
        FederationError
            If the result is not finite.
        """
        new, new_state = dict(previous), dict[str, Tensor]()
        for combined in means:
            if self._optimiser:
                before = widened({name: previous[name] for name in combined})
                with np.errstate(over="ignore", invalid="ignore"):  # found and told below
                    combined, part = self._optimiser.step(round_number, combined, before, state)
                new_state |= part
            new |= {name: each.to(previous[name].dtype) for name, each in combined.items()}
        _require_finite(new, new_state)
        return new, new_state

    def _means(
        self, round_number: int, inbox: Inbox, previous: Mapping[str, Tensor]
    ) -> Iterator[dict[str, Tensor]]:
        weights = {each.report.site: self.weight_of(each.report) for each in inbox.arrived()}
        if self._config.kind == "krum":
            weights = self._chosen(weights, inbox, previous)
        for names in groups(previous, len(weights)):
            replies = [
                reply_of(widened(inbox.read(site, names)), weight=weight)
                for site, weight in weights.items()
            ]
            arrays, _ = self._combining.aggregate_train(round_number, replies)
            combined = tensors_of(arrays)
            yield {name: combined[name] for name in names}

    def weight_of(self, report: Report) -> int:
        """Return what a site weighs; replies in which that is not positive are refused before."""
        counts = {
            "clips": report.examples,
            "patients": report.patients or 0,
            "steps": report.steps,
            "equal": 1,
        }
        return counts[self._config.weigh_by]

    def _chosen(
        self, weights: Mapping[str, int], inbox: Inbox, previous: Mapping[str, Tensor]
    ) -> dict[str, int]:
        sites, option = list(weights), self._config.option
        krum = Krum(
            malicious_sites=int(option("malicious_sites")), keep_sites=int(option("keep_sites"))
        )
        # Of float64, which takes twice the room.
        parts = (
            [_change(inbox.read(site, names), previous, names) for site in sites]
            for names in groups(previous, 2 * len(sites))
        )
        chosen = [sites[place] for place in krum.choose(sites, list(weights.values()), parts)]
        log.info("krum chose %s of %s", ", ".join(chosen), ", ".join(sites))
        return {site: weights[site] for site in chosen}


def build_strategy(config: StrategyConfig) -> ServerStrategy:
    """Return the study's strategy."""
    return ServerStrategy(config)


def groups(tensors: Mapping[str, Tensor], copies: int) -> Iterator[list[str]]:
    """Yield the names of the floats in groups of which so many copies fit into memory."""
    group: list[str] = []
    filled = 0
    for name in sorted(name for name, each in tensors.items() if each.is_floating_point()):
        size = copies * tensors[name].nbytes
        if group and filled + size > GROUP_BYTES:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += size
    if group:
        yield group


def _combining(config: StrategyConfig) -> FedAvg:
    if config.kind == "median":
        return FedMedian(weighted_by_key=WEIGHT_KEY)
    if config.kind == "trimmed-mean":
        return FedTrimmedAvg(weighted_by_key=WEIGHT_KEY, beta=config.option("trim_fraction"))
    return FedAvg(weighted_by_key=WEIGHT_KEY)


def widened(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return floats as float32 at least."""
    return {
        name: each.to(torch.promote_types(each.dtype, torch.float32))
        for name, each in tensors.items()
    }


def _change(
    weights: Mapping[str, Tensor], previous: Mapping[str, Tensor], names: Sequence[str]
) -> Tensor:
    """Return what a site changed in some tensors, flat."""
    parts = [(weights[name].double() - previous[name].double()).flatten() for name in names]
    return torch.cat(parts)


def _require_finite(*all_tensors: Mapping[str, Tensor]) -> None:
    for tensors in all_tensors:
        for name, tensor in tensors.items():
            if not all_finite(tensor):
                raise FederationError(f"the aggregate is not finite at {name}")
