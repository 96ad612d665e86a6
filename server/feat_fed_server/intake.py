"""The way of an answer into a round: screened alone, put into the inbox, compared with others."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from feat_fed.errors import ProtocolError
from feat_fed.protocol import Report
from feat_fed.report.run_store import RunStore
from feat_fed_server.inbox import Arrived, Inbox
from feat_fed_server.replies import TAKEN_OUT, Reply
from feat_fed_server.screening import (
    Peer,
    log_norm,
    refused_again,
    screen_alone,
    screen_together,
)
from feat_fed_server.standing import Standing
from feat_fed_server.tally import Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Intake:
    """Of one round.

    Parameters
    ----------
    weights
        The global weights that the round began with.
    standing
        Of the sites after the round before.
    """

    store: RunStore
    number: int
    weights: Mapping[str, Tensor]
    inbox: Inbox
    standing: Standing

    def take(self, reply: Reply) -> Reply:
        """Put an update that is good by itself into the inbox; return the reply without it."""
        if reply.report is None or reply.weights is None:
            return reply
        return self._put(reply, reply.report, self.weights)

    def take_late(self, reply: Reply, base: Mapping[str, Tensor] | None) -> Reply:
        """Take an answer to the round before, if the study does: as the difference that it made.

        Parameters
        ----------
        base
            The global weights that its round began with; None: they are not kept.
        """
        report = reply.report
        if report is None or reply.status != "ok":
            return reply
        answered = report.round
        reply = replace(reply, answers_round=answered)
        if base is None or reply.weights is None or answered != self.number - 1:
            reason = f"its update to round {answered} came too late"
            return replace(reply, status="late", reason=reason, weights=None)
        return self._put(reply, report, base)

    def require_registered(self, tally: Tally, registered: Collection[str]) -> None:
        """Turn away updates of sites whose keys were taken out since they came."""
        for each in self.inbox.arrived():
            site = each.report.site
            if site not in registered:
                log.warning("%s: refused: %s", site, TAKEN_OUT)
                self.inbox.discard(site)
                tally.turn_away(site, ProtocolError(TAKEN_OUT))

    def compare(self, tally: Tally, weight_of: Callable[[Report], float]) -> None:
        """Turn away updates in the inbox that stand out among the others.

        Parameters
        ----------
        weight_of
            Returns what a report's update weighs in the mean.
        """
        peers = {
            each.report.site: Peer(log_norm(each.norm, each.report.steps), weight_of(each.report))
            for each in self.inbox.arrived()
        }
        refused = screen_together(
            peers, screening=self.store.study.screening, past=self.standing.log_norms
        )
        for site, error in refused.items():
            log.warning("%s: refused: %s", site, error)
            self.inbox.discard(site)
            tally.turn_away(site, error)

    def _put(self, reply: Reply, report: Report, base: Mapping[str, Tensor]) -> Reply:
        weights, digest = reply.weights or {}, reply.digest or ""
        others = {
            each.digest: each.report.site
            for each in self.inbox.arrived()
            if each.report.site != report.site
        }
        try:
            norm = screen_alone(
                weights,
                base,
                screening=self.store.study.screening,
                training=self.store.study.training,
                # What top-k has kept back in earlier rounds may come together.
                rounds=self.number if self.store.study.transfer.up == "topk" else 1,
            )
            refused_again(digest, earlier=self.standing.sent_before(), now=others)
        except ProtocolError as error:
            return reply.refused(error)
        arrived = Arrived(
            report=report,
            norm=norm,
            bytes_down=reply.bytes_down,
            bytes_up=reply.bytes_up,
            base_round=report.round,
            digest=digest,
            answer_sec=reply.answer_sec,
            answered_at=reply.answered_at,
        )
        if reply.answers_round is not None:
            weights = moved_onto(self.weights, weights, base)
        self.inbox.put(arrived, weights)
        return replace(reply, weights=None, norm=norm)


def known_reply(arrived: Arrived, number: int) -> Reply:
    """Return the reply of an update that was there when the server started."""
    report = arrived.report
    late = arrived.base_round if arrived.base_round != number else None
    return Reply(
        report.site,
        "ok",
        report=report,
        bytes_down=arrived.bytes_down,
        bytes_up=arrived.bytes_up,
        digest=arrived.digest,
        norm=arrived.norm,
        answer_sec=arrived.answer_sec,
        answered_at=arrived.answered_at,
        answers_round=late,
    )


def moved_onto(
    now: Mapping[str, Tensor], weights: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return ``now + (weights - base)`` for floats, in float32 at least; else ``now``."""
    moved = {}
    for name, tensor in now.items():
        exact = torch.promote_types(tensor.dtype, torch.float32)
        if tensor.is_floating_point():
            move = weights[name].to(exact) - base[name].to(exact)
            moved[name] = (tensor.to(exact) + move).to(tensor.dtype)
        else:
            moved[name] = tensor
    return moved
