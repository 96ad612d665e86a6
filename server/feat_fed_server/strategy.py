"""Flower's strategies behind our transport: they see plain arrays, the wire sees buckets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Strategy
from torch import Tensor

from feat_fed.config import StrategyConfig
from feat_fed.federate import pack
from feat_fed.protocol import Assignment, Report
from feat_fed.wire import header_record, weights_record

_WEIGHT_KEY = "weight"


@dataclass(frozen=True)
class Update:
    """A site's accepted answer to a training assignment."""

    report: Report
    weights: dict[str, Tensor]


class BucketedStrategy:
    """Own a Flower strategy; send its messages with packed weights, give it screened updates.

    Flower's cost is per object, so the arrays that the strategy puts into its messages
    travel as a few buckets. Whatever else it adds to a message stays.

    Parameters
    ----------
    inner
        Any of Flower's message strategies. It must take all nodes that it is offered:
        who takes part is decided before.
    weigh_by
        What a site weighs in a mean: its training clips, or the steps that it took.
    """

    def __init__(self, inner: Strategy, *, weigh_by: Literal["clips", "steps"] = "clips") -> None:
        self._inner = inner
        self._weigh_by = weigh_by

    def configure(
        self, assignment: Assignment, weights: Mapping[str, Tensor], nodes: Sequence[int]
    ) -> tuple[list[Message], int]:
        """Make one message a node, and return them with the bytes of weights in each."""
        messages = self._inner.configure_train(
            assignment.round,
            to_arrays(weights),
            header_record(assignment),
            cast(Grid, _Offer(nodes)),
        )
        buckets = pack(weights)
        packed = weights_record(buckets)
        for message in messages:
            message.content["arrays"] = packed
            message.metadata.group_id = str(assignment.round)
        return list(messages), sum(len(bucket) for bucket in buckets)

    def aggregate(
        self, round_number: int, updates: Sequence[Update], previous: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Make the next global weights; updates in any order give the same bytes."""
        ordered = sorted(updates, key=lambda update: update.report.site)
        replies = [_reply(each.weights, weight=self._weight(each.report)) for each in ordered]
        arrays, _ = self._inner.aggregate_train(round_number, replies)
        if arrays is None:
            return dict(previous)
        return {
            name: torch.from_numpy(arrays[name].numpy()).to(tensor.dtype)
            for name, tensor in previous.items()
        }

    def _weight(self, report: Report) -> int:
        return report.examples if self._weigh_by == "clips" else report.steps


def build_strategy(config: StrategyConfig) -> BucketedStrategy:
    """Return the study's strategy."""
    strategies = {"fedavg": _fedavg}
    return BucketedStrategy(strategies[config.kind](), weigh_by=config.weigh_by)


def to_arrays(weights: Mapping[str, Tensor]) -> ArrayRecord:
    """Return Flower's form of the weights."""
    return ArrayRecord.from_torch_state_dict(dict(weights))


def _fedavg() -> Strategy:
    return FedAvg(
        min_train_nodes=1,
        min_available_nodes=1,
        min_evaluate_nodes=1,
        weighted_by_key=_WEIGHT_KEY,
    )


def _reply(weights: Mapping[str, Tensor], *, weight: int) -> Message:
    content = RecordDict(
        {
            "arrays": to_arrays(weights),
            "metrics": MetricRecord({_WEIGHT_KEY: weight}),
        }
    )
    return Message(content, dst_node_id=1, message_type="train")


@dataclass(frozen=True)
class _Offer:
    """The part of a grid that strategies look at: only the nodes that take part."""

    nodes: Sequence[int]

    def get_node_ids(self) -> Sequence[int]:
        return self.nodes
