"""Aggregate updates that are in memory, through an inbox as the server does."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from feat_fed.protocol import Report
from feat_fed_server.inbox import Arrived, Inbox
from feat_fed_server.strategy import ServerStrategy

Weights = dict[str, Tensor]


def filled_inbox(
    folder: Path, updates: Iterable[tuple[Report, Weights]], previous: Mapping[str, Tensor]
) -> Inbox:
    """Put updates into a folder."""
    inbox = Inbox(folder)
    for report, weights in updates:
        moves = [weights[name].double() - each.double() for name, each in previous.items()]
        floats = [
            move
            for move, each in zip(moves, previous.values(), strict=True)
            if each.is_floating_point()
        ]
        norm = float(torch.stack([move.norm() for move in floats]).norm())
        told = Arrived(report=report, norm=norm, bytes_up=0, base_round=report.round, digest="")
        inbox.put(told, weights)
    return inbox


def aggregate(
    strategy: ServerStrategy,
    folder: Path,
    updates: Iterable[tuple[Report, Weights]],
    previous: Weights,
    *,
    number: int,
) -> Weights:
    """Return the next weights, by a strategy without a state."""
    inbox = filled_inbox(folder, updates, previous)
    weights, _ = strategy.aggregate(number, inbox, previous, {})
    inbox.clear()
    return weights
