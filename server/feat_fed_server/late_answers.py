"""Sites that had their time and have not answered: who is still at what.

A SuperNode takes one message at a time, so a site that is at an older question gets to the next
one only when it has answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from feat_fed_server.asked import Asked
from feat_fed_server.question import Question


class LateAnswers:
    """Questions whose time is up, until they are answered, lost or expired."""

    def __init__(self) -> None:
        self._open: list[Asked] = []

    def keep(self, asked: Iterable[Asked], *, of_use: bool) -> None:
        """Go on listening for answers to these, where anybody may still be at them.

        Unless they are ``of_use`` in a later round, the weights that they started from are let go.
        """
        for each in asked:
            if each.is_out:
                if not of_use:
                    each.question = replace(each.question, outgoing=None)
                self._open.append(each)

    def forget(self, asked: Asked) -> None:
        """Listen no more for one."""
        self._open.remove(asked)

    def again(self, site: str, question: Question) -> Asked | None:
        """Take out what a site is at, if it is the very question that it is asked now."""
        for each in self._open:
            if each.site == site and each.question.is_that_of(question):
                self.forget(each)
                each.question, each.bytes_down = question, 0  # counted before
                return each
        return None

    def of_others(self, question: Question) -> list[Asked]:
        """Return what is not part of the question that is asked now."""
        return [each for each in self._open if not each.question.is_that_of(question)]

    def busy(self, question: Question) -> set[str]:
        """Return the sites that are at another question."""
        return {each.site for each in self.of_others(question)}

    def rounds(self) -> dict[str, int]:
        """Return which round each of the sites is at."""
        return {each.site: each.question.assignment.round for each in self._open}

    def note_nodes(self, connected: Mapping[str, int], activated: Mapping[int, str]) -> None:
        """Note who is there; one that has connected anew is at nothing any more."""
        for each in self._open:
            if (node_id := connected.get(each.site)) is not None:
                each.note_node(activated[node_id])
        self._open = [each for each in self._open if each.is_out]
