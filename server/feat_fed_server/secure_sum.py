"""From a round's masked updates to their sum, a group of tensors at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from feat_fed.config import StudyConfig
from feat_fed.errors import CheckpointError, FederationError, ProtocolError
from feat_fed.masked import COUNTERS, counted, num_counters, sum_of
from feat_fed.secagg import Grid, ServerSecAgg
from feat_fed_server.inbox import Inbox
from feat_fed_server.secure_state import SecureState
from feat_fed_server.strategy import groups
from feat_fed_server.summed import Summed

_COPIES = 4
"""Of a group in memory: an update, the sum as integers and as floats."""


def secure_sum(inbox: Inbox, study: StudyConfig, previous: Mapping[str, Tensor]) -> Summed:
    """Return the sum of the updates in an inbox whose round was gathered.

    Raises
    ------
    FederationError
        If a site has counted otherwise than it may.
    CheckpointError
        If what came cannot be read any more.
    """
    state = SecureState.read(inbox)
    if state is None:
        raise CheckpointError(f"{inbox.folder} has masked updates and nothing to unmask their sum")
    server = ServerSecAgg(state.aggregation)
    masks, survivors = server.recover(), server.request().survivors
    grid = Grid(state.largest, sites=len(server.roster().offers))
    counters, within = num_counters(study), 0
    if counters:
        updates = (inbox.read(site, [COUNTERS]) for site in survivors)
        try:
            [within] = counted(updates, masks=masks, sites=len(survivors))
        except ProtocolError as error:
            raise FederationError(f"the round's counts are wrong: {error}") from error

    def totals() -> Iterator[dict[str, Tensor]]:
        for names in groups(previous, _COPIES):
            updates = (inbox.read(site, names) for site in survivors)
            yield sum_of(
                updates, names, weights=previous, grid=grid, masks=masks, counters=counters
            )

    return Summed(len(survivors), within, totals())
