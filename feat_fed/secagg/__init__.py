"""Secure aggregation (SecAgg+): the server gets the sum of the sites' updates and no single one.

A round has these stages; each role's methods say what they take and give::

    stage             site (SiteSecAgg)                  server (ServerSecAgg)
    0 keys            begin, keys -> KeyOffer            take_keys, roster -> Roster
    1 shares          shares(Roster) -> ShareOffer       take_shares, deal -> Deliveries
    2 masked updates  masks(Deliveries) -> Masks         take_masked, request -> UnmaskRequest
    4 unmasking       unmask(UnmaskRequest) -> Shares    take_unmask, recover -> Masks

A site turns counters and tensors into the ring (:class:`Grid`), adds its masks
(:meth:`Masks.apply`) at their :func:`places` and sends them; the server adds up what the
survivors sent, applies the masks of ``recover`` in the same way and has the sum.

A session that fails before stage 4 is left, and the round begins again as the next attempt. Once
the shares of stage 4 were asked for there is no other attempt, for sites that gave them refuse it:
the server asks the same again until enough have answered (`is_recoverable`).
"""

from feat_fed.secagg.masks import Masks, places
from feat_fed.secagg.messages import (
    Deliveries,
    KeyOffer,
    Roster,
    Session,
    ShareOffer,
    Shares,
    UnmaskRequest,
)
from feat_fed.secagg.quantise import Grid, Ring, counters_from_ring, counters_to_ring
from feat_fed.secagg.server import ServerSecAgg, ServerState
from feat_fed.secagg.site import SiteSecAgg, SiteState
from feat_fed.secagg.state_file import read_state, write_state

__all__ = [
    "Deliveries",
    "Grid",
    "KeyOffer",
    "Masks",
    "Ring",
    "Roster",
    "ServerSecAgg",
    "ServerState",
    "Session",
    "ShareOffer",
    "Shares",
    "SiteSecAgg",
    "SiteState",
    "UnmaskRequest",
    "counters_from_ring",
    "counters_to_ring",
    "places",
    "read_state",
    "write_state",
]
