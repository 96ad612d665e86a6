"""Which public keys this site believes to be the other sites' own.

::

    peers.json    in the site's store: fingerprints by site, as they came first

Those of the site's file (``privacy.peers``) count before these.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from feat_fed.config import SiteConfig
from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import Fingerprint
from feat_fed.config.study import Name
from feat_fed.errors import AgreementError
from feat_fed.secagg import Roster, read_state, write_state

_FILE = "peers.json"
_MEND = (
    "put it back from a backup. Without one, first write the fingerprints of the other hospitals' "
    "keys, as they read them out by telephone, into privacy.peers of this site's file, and only "
    "then remove it. Whatever key the server shows of a site in neither is believed"
)


class _Peers(StrictModel):
    """The content of the file."""

    schema_version: Literal[1] = 1
    first_seen: dict[Name, Fingerprint] = Field(default_factory=dict)


def seen_first(site: SiteConfig) -> dict[str, Fingerprint]:
    """Return the keys that this site has believed because they came first.

    Raises
    ------
    CheckpointError
        If the file is damaged.
    """
    return (read_state(site.store / _FILE, _Peers, mend=_MEND) or _Peers()).first_seen


def known_peers(site: SiteConfig, roster: Roster) -> dict[str, Fingerprint]:
    """Return the keys that count for the sites of a roster; a site that is new is believed.

    Raises
    ------
    AgreementError
        If a site comes with another key than the one that counts.
    CheckpointError
        If the file is damaged.
    """
    path = site.store / _FILE
    seen = seen_first(site)
    offered = {each.site: each.fingerprint for each in roster.offers if each.site != site.name}
    for name, fingerprint in offered.items():
        told = site.privacy.peers.get(name)
        known = told or seen.get(name, fingerprint)
        if known != fingerprint:
            where = "privacy.peers" if told else str(path)
            raise AgreementError(
                f"{name} comes with a key of fingerprint {fingerprint}, and {where} has {known}: "
                "ask that hospital by telephone which is right. If it has a new key, write its "
                f"fingerprint into this site's privacy.peers under {name}; if not, the server is "
                "not to be trusted"
            )
    new = offered.keys() - seen.keys() - site.privacy.peers.keys()
    if new:
        first = {name: offered[name] for name in new}
        write_state(path, _Peers(first_seen={**seen, **first}))
    return offered
