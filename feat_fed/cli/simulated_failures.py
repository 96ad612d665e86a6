"""Failures of virtual hospitals, rehearsed around the sites' own ClientApp, which knows of none."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence

import torch
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from safetensors.torch import load, save

from feat_fed.config import FailureConfig, SiteConfig
from feat_fed.errors import ProtocolError
from feat_fed.protocol import Assignment, Report
from feat_fed.wire import from_records, to_records

log = logging.getLogger(__name__)

_CRASH_STATUS = 70
_BEYOND_DEADLINE_SEC = 1.0


class RehearsingApp(ClientApp):
    """The ClientApp of all virtual sites; some fail in some rounds, as they are told to.

    Parameters
    ----------
    app
        The sites' own.
    site_of
        Finds the site by Flower's context.
    failures
        At most one for a site and a round. They concern training alone.
    """

    def __init__(
        self,
        app: ClientApp,
        site_of: Callable[[Context], SiteConfig],
        failures: Sequence[FailureConfig],
    ) -> None:
        super().__init__()
        self._app, self._site_of = app, site_of
        self._failures = {(each.site, each.round): each for each in failures}

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message, or fail to."""
        site = self._site_of(context)
        failure = self._failure(message, site)
        if failure is None:
            return self._app(message, context)
        log.warning("round %d, rehearsed at %s: %s", failure.round, site.name, failure.does)
        if failure.does == "crash":
            _die_once(site, failure.round)
            return self._app(message, context)
        if failure.does == "decline":
            return self._paused(message, context, site)
        reply = self._app(message, context)
        if failure.does == "silent":
            _wait_beyond_deadline(message)
            return reply
        factor = torch.nan if failure.factor is None else failure.factor
        return _with_numbers(reply, message, factor)

    def _failure(self, message: Message, site: SiteConfig) -> FailureConfig | None:
        if message.metadata.message_type != "train":
            return None
        try:
            assignment, _ = from_records(message.content, Assignment)
        except ProtocolError:  # the sites' own app says so
            return None
        return self._failures.get((site.name, assignment.round))

    def _paused(self, message: Message, context: Context, site: SiteConfig) -> Message:
        from feat_fed_client.pause import begin_pause, end_pause

        begin_pause(site.store, None)
        try:
            return self._app(message, context)
        finally:
            end_pause(site.store)


def _die_once(site: SiteConfig, number: int) -> None:
    """End the process as the kernel would, unless it did so before in this round."""
    mark = site.store / "rehearsed" / f"crash-{number:04d}"
    if not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os._exit(_CRASH_STATUS)


def _wait_beyond_deadline(message: Message) -> None:
    assignment, _ = from_records(message.content, Assignment)
    given_sec = assignment.answer_within_sec or assignment.study.sites.round_sec
    until = message.metadata.created_at + given_sec + _BEYOND_DEADLINE_SEC
    time.sleep(max(0.0, until - time.time()))


def _with_numbers(reply: Message, message: Message, factor: float) -> Message:
    """Return the reply with its floats multiplied, as they travel; one only where that is NaN."""
    if reply.has_error():
        return reply
    report, buckets = from_records(reply.content, Report)
    spoilt: list[bytes] = []
    for bucket in buckets:
        tensors = load(bucket)
        for tensor in tensors.values():
            if tensor.is_floating_point() and factor == factor:
                tensor.mul_(factor)
            elif tensor.is_floating_point() and not spoilt:
                tensor.view(-1)[0] = factor
        spoilt.append(save(tensors))
    return Message(to_records(report, spoilt), reply_to=message)
