"""What a site may upload as its answer: one tree of parts, of a model's size.

Flower 1.41 takes any number of parts for an answer, and other parts each time that it is announced,
and holds them in memory until the run ends. A site that is hostile could fill the server's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from flwr.app import Message
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.object_store import NoObjectInStoreError
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore

from feat_fed.part_store import is_of_one_form
from feat_fed_server.whole_answers import WholeAnswers

log = logging.getLogger(__name__)

_BESIDE_BYTES = 16 * 1024**2
"""For what is no weight: a report, and what sites tell each other under secure aggregation."""
_BESIDE_PARTS = 64
_PART_BYTES = 1024**2
"""Parts of an answer are larger than that on average; Flower's are of 5 MiB."""


def most_answer_bytes(checkpoints: Path) -> int:
    """Return how large an answer may be, by the weights in a run's folder of checkpoints.

    Masks make whole numbers of eight bytes of weights of four.
    """
    sizes = [path.stat().st_size for path in checkpoints.glob("round-*.safetensors")]
    return 2 * max(sizes, default=0) + _BESIDE_BYTES


class BoundedAnswers(WholeAnswers):
    """Flower's state in memory, with a bound on what each answer may hold there.

    Parameters
    ----------
    most_bytes
        Returns the bound.
    """

    def __init__(self, *arguments: Any, most_bytes: Callable[[], int], **named: Any) -> None:  # noqa: ANN401
        super().__init__(*arguments, **named)
        self._most_bytes = most_bytes
        self._left: dict[str, int] = {}
        """Bytes that may still come, by the upload's session."""

    def store_message_and_object_tree(
        self, message: Message, object_tree: ObjectTree, session_id: str
    ) -> tuple[bool, list[str]]:
        """Take a question, or the announcement of an answer; one refused leaves nothing behind."""
        is_answer = bool(message.metadata.reply_to_message_id)
        # Announced again, it goes on with what it had left.
        upload = self._object_push_session_by_root.get(object_tree.object_id, "")
        left = self._left.get(upload, self._most_bytes())
        if is_answer and (why := self._refusal(message, object_tree)):
            log.warning("an answer of node %s is refused: %s", message.metadata.src_node_id, why)
            stored, missing = False, list[str]()
        else:
            stored, missing = super().store_message_and_object_tree(
                message, object_tree, session_id
            )
        if not stored:
            self._cleanup_push_session(session_id, cleanup_messages=False)
        elif is_answer and missing:
            self._left[session_id] = left
        return stored, missing

    def store_object(
        self, run_id: int, session_id: str, object_id: str, object_content: bytes
    ) -> bool:
        """Take a part; an answer that gets too large by it is dropped."""
        if not session_id:  # of SuperNodes before 1.41, and of no upload that could be counted
            return False
        if session_id in self._left:
            self._left[session_id] -= len(object_content)
            if self._left[session_id] < 0:
                log.warning("an answer is dropped: it is larger than any of this study's")
                self._cleanup_push_session(session_id, cleanup_messages=True)
                return False
        return super().store_object(run_id, session_id, object_id, object_content)

    def delete_messages(self, message_ins_ids: set[str]) -> None:
        """Forget questions with their answers, and parts that nobody will ask for any more.

        Flower 1.41 leaves those of a question that its site never had whole until the run ends.
        """
        with self.lock:
            over = set(message_ins_ids)
            for question in message_ins_ids:
                answer = self.message_ins_id_to_message_res_id.get(question, "")
                found = self.message_res_store.get(answer)
                if found is not None and not found.metadata.delivered_at:
                    over.add(answer)
            super().delete_messages(message_ins_ids)
            for root in over:
                self.object_store.delete(root)

    def _cleanup_push_session(self, session_id: str, *, cleanup_messages: bool) -> None:
        super()._cleanup_push_session(session_id, cleanup_messages=cleanup_messages)
        self._left.pop(session_id, None)

    def _refusal(self, answer: Message, tree: ObjectTree) -> str:
        """Return what is wrong with an announcement, or nothing."""
        message_id = answer.metadata.message_id
        if tree.object_id != message_id:
            return "its parts are another message's"
        most = _BESIDE_PARTS + self._most_bytes() // _PART_BYTES
        if sum(1 for _ in islice(iterate_object_tree(tree), most + 1)) > most:
            return f"it is of over {most} parts"
        store = self.object_store
        if isinstance(store, InMemoryObjectStore) and not is_of_one_form(tree, store):
            return "it names a part again with other parts below it"
        with self.lock:
            is_known = message_id in self.message_res_store
        if is_known and self._stored_tree(message_id) != tree:
            return "it was announced before, with other parts"
        return ""

    def _stored_tree(self, message_id: str) -> ObjectTree | None:
        try:
            return self.object_store.get_object_tree(message_id)
        except NoObjectInStoreError:
            return None
