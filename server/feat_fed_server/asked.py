"""What is out at a site in a round, through as many sendings as it takes.

Flower delivers a message once. When a site's process or machine dies with it, the error says so
(or nothing does, where the site reconnected before anybody looked), and the site has to be sent
the message again once it is back. It answers from its spool or goes on from its checkpoint, so
the first answer that comes is as good as any, whichever sending it answers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo

from feat_fed_server.outgoing import Parcel
from feat_fed_server.question import Question
from feat_fed_server.replies import Reply, missing

MAX_SENDINGS = 5
"""To a site in a round: a site that dies of each is left out."""

MOST_LACKS = 2
"""Of what it was sent, that a site may say: then all weights were sent, and it lacks nothing."""

_LOST = (
    ErrorCode.MESSAGE_UNAVAILABLE,
    ErrorCode.NODE_UNAVAILABLE,
    ErrorCode.CLIENT_APP_CRASHED,
)


@dataclass
class Asked:
    """A site that has not answered yet."""

    site: str
    message: Message
    """As it was sent last."""
    activated_at: str
    """When the site's node had connected, as Flower says it; changes when it connects anew."""
    question: Question
    until: float = 0.0
    """Unix time at which the site has had its time."""
    asked_at: float = field(default_factory=time.time)
    ids: list[str] = field(default_factory=list)
    """Of the sendings that may still be answered."""
    sendings: int = 0
    lacks: int = 0
    """Sendings that were a difference from weights that the site does not have."""
    bytes_down: int = 0
    """Of weights, in the sendings that Flower took: the others moved none."""
    loss: Reply | None = None
    """Why nobody is at the last sending any more, where that is known."""

    def sent(self, message_id: str, parcel: Parcel) -> None:
        """Note a sending; without an id, Flower did not take it."""
        self.sendings += 1
        self.loss = None if message_id else missing(self.site)
        if message_id:
            self.bytes_down += parcel.size_bytes
            self.ids.append(message_id)

    def note_loss(self, message_id: str, reply: Reply) -> None:
        """Note that a sending is lost, which Flower then forgets; only the last loss matters."""
        if message_id == self.ids[-1]:
            self.loss = reply
        self.ids.remove(message_id)

    def note_lack(self, message_id: str, reply: Reply) -> None:
        """Note that the site has to be sent other weights, which is no fault of its own."""
        self.note_loss(message_id, reply)
        self.sendings -= 1
        self.lacks += 1

    def note_node(self, activated_at: str) -> None:
        """Note the site's node; one that has connected anew knows nothing of what was sent."""
        if activated_at != self.activated_at:
            self.activated_at = activated_at
            self.loss = self.loss or missing(self.site)

    @property
    def given_up(self) -> bool:
        """Whether it is lost and not sent again."""
        return self.loss is not None and self.sendings >= MAX_SENDINGS

    @property
    def is_out(self) -> bool:
        """Whether somebody may still be at it."""
        return bool(self.ids) and self.loss is None

    def again(self, content: RecordDict, node_id: int, *, ttl_sec: float) -> Message:
        """Make the message anew; Flower takes no message twice."""
        old = self.message.metadata
        self.message = Message(
            content,
            dst_node_id=node_id,
            message_type=old.message_type,
            group_id=old.group_id,
            ttl=ttl_sec,
        )
        return self.message


def is_lost(message: Message) -> bool:
    """Whether a reply is Flower's, and says that nobody works at the site any more."""
    return message.has_error() and message.error.code in _LOST


def activations(nodes: Iterable[NodeInfo]) -> dict[int, str]:
    """Return when each node connected, by its id."""
    return {node.node_id: node.last_activated_at for node in nodes}
