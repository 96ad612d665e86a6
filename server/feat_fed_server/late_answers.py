"""Sites that had their time and have not answered: who is still at what.

A SuperNode takes one message at a time, so a site that is at an older question gets to the next
one only when it has answered.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from feat_fed.protocol import Assignment
from feat_fed_server.asked import Asked


class LateAnswers:
    """Questions whose time is up, until they are answered, lost or expired."""

    def __init__(self) -> None:
        self._open: list[Asked] = []

    def keep(self, asked: Iterable[Asked]) -> None:
        """Go on listening for answers to these, where anybody may still be at them."""
        self._open += [each for each in asked if each.is_out]

    def forget(self, asked: Asked) -> None:
        """Listen no more for one."""
        self._open.remove(asked)

    def again(self, site: str, assignment: Assignment) -> Asked | None:
        """Take out a site's question if it is the very one that it is asked now."""
        for each in self._open:
            if each.site == site and _same(each, assignment):
                self.forget(each)
                return each
        return None

    def of_other_rounds(self, assignment: Assignment) -> list[Asked]:
        """Return what is not part of the question that is asked now."""
        return [each for each in self._open if not _same(each, assignment)]

    def busy(self, assignment: Assignment) -> set[str]:
        """Return the sites that are at another question."""
        return {each.site for each in self.of_other_rounds(assignment)}

    def rounds(self) -> dict[str, int]:
        """Return which round each of the sites is at."""
        return {each.site: each.assignment.round for each in self._open}

    def note_nodes(self, connected: Mapping[str, int], activated: Mapping[int, str]) -> None:
        """Note who is there; one that has connected anew is at nothing any more."""
        for each in self._open:
            if (node_id := connected.get(each.site)) is not None:
                each.note_node(activated[node_id])
        self._open = [each for each in self._open if each.is_out]


def _same(asked: Asked, assignment: Assignment) -> bool:
    told: Collection[object] = (asked.assignment.round, asked.assignment.task)
    return told == (assignment.round, assignment.task)
