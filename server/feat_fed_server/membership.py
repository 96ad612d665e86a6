"""A running study in step with who may take part: approved and revoked while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from feat_fed.audit.events import SiteChange
from feat_fed.config import load_federation
from feat_fed.errors import ChildError, ConfigError
from feat_fed_server.admissions import Admissions
from feat_fed_server.roster import KeyRoster
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.superlink_client import SuperLinkClient

_LOOK_SEC = 1.0


@dataclass(frozen=True)
class Federation:
    """The coordinator's file and what lies beside it.

    Parameters
    ----------
    file
        The federation's YAML file.
    """

    file: Path

    @property
    def admissions(self) -> Admissions:
        """The keys and requests beside the file."""
        return Admissions(self.file.parent)

    def members(self) -> dict[bytes, str]:
        """Return the sites of the file that are admitted: the name by the key (PEM).

        Raises
        ------
        ConfigError
            If a file of them cannot be used.
        """
        return self.admissions.members(load_federation(self.file).sites)

    def warnings(self) -> list[str]:
        """Say which tokens that hospitals still need have expired."""
        names = load_federation(self.file).sites
        waiting = [name for name in names if not self.admissions.key_file(name).exists()]
        invitations = [(name, self.admissions.invitation(name)) for name in waiting]
        return [
            f"the token of {name} has expired: `feat-fed provision rotate` makes another"
            for name, it in invitations
            if it and it.has_expired and it.used_by is None
        ]

    def state(self) -> object:
        """Return what differs when something in the files does."""
        keys = self.admissions.keys
        files = (self.file, keys / "revoked.json", *sorted(keys.glob("*.pub")))
        return tuple((each.name, *_stamp(each)) for each in files)


class Membership:
    """Keeps a SuperLink and the study's roster as the coordinator's files are.

    The roster is what the door and the ServerApp go by: it is written after a new key is
    registered, and before a revoked one is taken out of Flower.

    Parameters
    ----------
    members
        Admitted at the start: the name by the key (PEM).
    roster
        The file of the study's :class:`~feat_fed_server.roster.FileRoster`.
    federation
        Where changes show; None: there are none.
    tell
        Called with a line for the screen.
    audit
        Where changes are noted, if anywhere.
    """

    def __init__(
        self,
        members: Mapping[bytes, str],
        *,
        roster: Path,
        federation: Federation | None,
        tell: Callable[[str], None],
        audit: RunAudit | None = None,
    ) -> None:
        self._members = dict(members)
        self._roster = roster
        self._federation = federation
        self._tell = tell
        self._audit = audit
        self._state = federation.state() if federation else None
        self._look_at = 0.0
        KeyRoster(self._members).save(roster)

    @property
    def names(self) -> tuple[str, ...]:
        """Sites that may take part, sorted."""
        return tuple(sorted(self._members.values()))

    @property
    def names_by_key(self) -> Mapping[bytes, str]:
        """The same by their public keys (PEM)."""
        return self._members

    def superlink_arguments(self) -> list[str]:
        """Return how a SuperLink that is about to start learns who may come in."""
        if self._read():
            KeyRoster(self._members).save(self._roster)
        beside = ["--federation", str(self._federation.file)] if self._federation else []
        return [
            *("--sites", str(len(self._members)), "--roster", str(self._roster.resolve())),
            *beside,
        ]

    def register(self, link: SuperLinkClient) -> None:
        """Make all of them known to a SuperLink that has just started."""
        link.register_sites(self._members)

    def follow(self, link: SuperLinkClient) -> None:
        """See whether something changed, at most once a second, and pass it on."""
        if self._federation is None or time.monotonic() < self._look_at:
            return
        self._look_at = time.monotonic() + _LOOK_SEC
        before = dict(self._members)
        if not self._read():
            return
        try:
            self._pass_on(link, before)
        except ChildError:  # whoever watches the SuperLink finds that out, too
            self._members, self._state = before, None

    def _read(self) -> bool:
        """Read the coordinator's files again; return whether there is something new."""
        if self._federation is None or self._state == (state := self._federation.state()):
            return False
        self._state = state
        try:
            self._members = self._federation.members()
        except ConfigError as error:
            self._tell(f"nobody is admitted before this is mended: {error}")
            # Whoever was revoked is out all the same.
            key_file, before = self._federation.admissions.key_file, self._members
            self._members = {key: it for key, it in before.items() if key_file(it).exists()}
            return len(self._members) < len(before)
        return True

    def _pass_on(self, link: SuperLinkClient, before: Mapping[bytes, str]) -> None:
        added = {key: name for key, name in self._members.items() if key not in before}
        removed = {key: name for key, name in before.items() if key not in self._members}
        refused = link.register_sites(added)
        KeyRoster(self._members).save(self._roster)
        link.remove_sites(removed)
        self._note("site-registered", {k: n for k, n in added.items() if n not in refused})
        self._note("site-revoked", removed)
        for name in removed.values():
            self._tell(f"{name}: its key was taken out; it is turned away from now on")
        for name in sorted({*added.values()} - {*refused}):
            self._tell(f"{name}: its key was admitted")
        for name in refused:
            self._tell(
                f"{name}: its key was taken out in this study before; it comes back when the "
                "server is stopped and started again"
            )

    def _note(self, kind: SiteChange, sites: Mapping[bytes, str]) -> None:
        for key, name in sites.items():
            if self._audit:
                self._audit.site(kind, name, key=key)


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return (stat.st_ino, stat.st_mtime_ns)
