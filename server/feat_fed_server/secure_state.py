"""What sites have sent for a round's masks, on disk beside their masked updates.

::

    inbox/round-0007/SITE.safetensors    a masked update each
    inbox/round-0007/secure.json         keys, shares, whose updates are summed up
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from feat_fed.config.base import StrictModel
from feat_fed.secagg import ServerState, read_state, write_state
from feat_fed_server.inbox import Inbox


class SecureState(StrictModel):
    """The content of ``secure.json``."""

    schema_version: Literal[1] = 1
    largest: float
    """That a weight may move in the round: the grid's."""
    aggregation: ServerState

    @classmethod
    def read(cls, inbox: Inbox) -> SecureState | None:
        """Return what lies in a round's inbox, if anything does.

        Raises
        ------
        CheckpointError
            If it is damaged.
        """
        return read_state(_path(inbox), cls)

    def write(self, inbox: Inbox) -> None:
        """Write it, and remove updates that other masks than this attempt's are on.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        write_state(_path(inbox), self)
        attempt, sharing = self.aggregation.session.attempt, self.aggregation.sharing or ()
        for each in inbox.arrived():
            if each.report.attempt != attempt or each.report.site not in sharing:
                inbox.discard(each.report.site)


def _path(inbox: Inbox) -> Path:
    return inbox.folder / "secure.json"
