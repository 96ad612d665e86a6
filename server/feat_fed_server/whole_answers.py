"""Answers are handed to the ServerApp when all of their parts are at the SuperLink.

A site announces its answer and then uploads it, which takes as long as its line does. Flower 1.41
gives an announced answer out at once, and whoever takes it waits for the parts: three minutes
where none comes, hours where some do now and then. The round loop would hear no other site
meanwhile and keep no deadline.
"""

from __future__ import annotations

from flwr.app import Message
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.date import now


class WholeAnswers(InMemoryLinkState):
    """Flower's state in memory, in which an answer is not there before the last part of it is."""

    def get_message_res(self, message_ids: set[str], run_id: int) -> list[Message]:
        """Return the answers that are there whole, and errors in place of those that never will."""
        return super().get_message_res(message_ids - self._on_the_way(message_ids), run_id)

    def _on_the_way(self, message_ids: set[str]) -> set[str]:
        """Return which messages have an answer whose upload may still be completed in time."""
        current = now()
        with self.lock:
            answers = {
                answer: message_id
                for message_id in message_ids
                if (answer := self.message_ins_id_to_message_res_id.get(message_id))
                and (asked := self.message_ins_store.get(message_id))
                and asked.metadata.created_at + asked.metadata.ttl > current.timestamp()
            }
        # Flower takes these two locks in either order, so never both here.
        with self._lock_object_push_sessions:
            uploads = {
                answer: self._object_push_sessions.get(session_id)
                for answer, session_id in self._object_push_session_by_root.items()
                if answer in answers
            }
        return {
            answers[answer]
            for answer, upload in uploads.items()
            if upload is not None and upload.expires_at > current
        }
