"""Which clips that could not be read are worth another look, although nothing tells of a change."""

from __future__ import annotations

from feat_fed.data.inventory.look import CHANGED, NOT_READ
from feat_fed.data.inventory.pool import CRASHED, NO_MEMORY, TOO_SLOW
from feat_fed.data.inventory.records import ClipRecord
from feat_fed.data.reading.reader import NOT_OPENED

MOST_ATTEMPTS = 4

_OF_THE_DISK = frozenset((NOT_OPENED, NOT_READ, CHANGED))
"""A mount that was away or a right that was missing; trying costs nothing."""

_OF_THE_MACHINE = frozenset((TOO_SLOW, CRASHED, NO_MEMORY))
"""Perhaps it was busy with something else; trying costs what it cost before."""


def worth_another_look(record: ClipRecord) -> bool:
    """Tell whether what stopped the last look may have passed."""
    if record.unreadable in _OF_THE_MACHINE:
        return record.attempts < MOST_ATTEMPTS
    return record.unreadable in _OF_THE_DISK
