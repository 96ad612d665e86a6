"""Flower's grid, with a line in the run's audit log for all that goes through it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid

from feat_fed.errors import ProtocolError
from feat_fed.protocol import Assignment, Report
from feat_fed.wire import Carried, carried, from_records
from feat_fed_server.roster import Roster
from feat_fed_server.run_audit import RunAudit, Sending


class AuditedGrid:
    """The three calls that the round loop makes; what leaves is in the log before it does.

    Parameters
    ----------
    roster
        Tells which node is which site.
    """

    def __init__(self, grid: Grid, roster: Roster, audit: RunAudit) -> None:
        self._grid = grid
        self._roster = roster
        self._audit = audit
        self._here: dict[str, int] = {}
        self._names: dict[int, str] = {}
        self._sendings: dict[str, Sending] = {}

    def get_nodes(self) -> tuple[NodeInfo, ...]:
        """Return the connected nodes; a site that has come or gone is noted."""
        nodes = tuple(self._grid.get_nodes())
        here = self._roster.online(nodes)
        for site in sorted(here.keys() ^ self._here.keys()):
            self._audit.site("site-connected" if site in here else "site-left", site)
        self._here = here
        self._names |= {node: site for site, node in here.items()}
        return nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Note what each site is asked, then send it."""
        messages = list(messages)
        sendings = [self._sending(message) for message in messages]
        for sending in sendings:
            self._audit.asked(sending)
            if sending.attempt is not None:
                self._audit.enclosed("enclosed-leaving", sending, sending.enclosed)
        ids = list(self._grid.push_messages(messages))
        self._sendings |= dict(zip(ids, sendings, strict=True))
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, each noted as it came."""
        replies = list(self._grid.pull_messages(message_ids))
        for reply in replies:
            sending = self._sendings.pop(reply.metadata.reply_to_message_id, None)
            if sending is not None:
                brought = Carried(0, None) if reply.has_error() else carried(reply.content)
                self._audit.received(sending, brought, error=_error(reply))
                if sending.attempt is not None and not reply.has_error():
                    self._audit.enclosed("enclosed-received", sending, _enclosed(reply))
        return replies

    def _sending(self, message: Message) -> Sending:
        assignment, buckets = from_records(message.content, Assignment)
        node = message.metadata.dst_node_id
        return Sending(
            site=self._names.get(node, f"node-{node}"),
            round=assignment.round,
            task=assignment.task,
            bytes_down=sum(map(len, buckets)),
            attempt=assignment.attempt,
            enclosed=assignment.enclosed,
        )


def _enclosed(reply: Message) -> str | None:
    """Return what a reply brought of a secure aggregation, if it can be read."""
    with contextlib.suppress(ProtocolError):
        return from_records(reply.content, Report)[0].enclosed
    return None


def _error(reply: Message) -> int | None:
    return int(reply.error.code) if reply.has_error() else None
