"""Who may take part: the files beside the federation's that say so.

::

    tokens/NAME.token        what the hospital gets; of use once
    sites/NAME.pub           the key of an admitted site
    sites/pending/NAME.join  a request that waits for a person's word
    sites/invited/NAME.json  what a token is verified by (Invitation)
    sites/revoked.json       keys that never come back

The coordinator's commands and the server's door change them, each under the lock of the folder.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, TypeAdapter, ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel
from feat_fed.config.privacy import Fingerprint
from feat_fed.config.study import Name
from feat_fed.errors import ConfigError, ProtocolError
from feat_fed.joining import (
    MAX_REQUEST_BYTES,
    JoinRequest,
    JoinState,
    Token,
    fingerprint,
    key_pem,
    public_text,
    read_public_key,
)
from feat_fed.protocol import BAD_REQUEST, EXPIRED_TOKEN, REVOKED_KEY, UNKNOWN_TOKEN, USED_TOKEN

TOKEN_DAYS = 14

_DETAILS = {
    UNKNOWN_TOKEN: "This server gave out no such token, or has given out a newer one.",
    USED_TOKEN: "The token was used already, with another key.",
    EXPIRED_TOKEN: "The token has expired.",
    BAD_REQUEST: "The request to join is not a valid one.",
    REVOKED_KEY: "The key was revoked.",
}


class JoinRefusedError(Exception):
    """A request to join that is turned away; ``code`` says why (:mod:`feat_fed.protocol`)."""

    def __init__(self, code: int) -> None:
        super().__init__(_DETAILS[code])
        self.code = code


class Invitation(StrictModel):
    """What the server keeps of a token: nothing by which anybody could join."""

    site: Name
    token_id: str
    expires_at: AwareDatetime
    used_by: Fingerprint | None = None
    """The key that it brought."""

    @property
    def has_expired(self) -> bool:
        """Whether it is too late to use it."""
        return self.expires_at < _now()


class Revoked(StrictModel):
    """A key that was taken out."""

    site: Name
    public_key: str
    at: AwareDatetime
    why: Literal["revoked", "replaced"]


_REVOKED = TypeAdapter(tuple[Revoked, ...])


@dataclass(frozen=True)
class Admissions:
    """The folder of the federation's file."""

    folder: Path

    @property
    def keys(self) -> Path:
        """Where the admitted sites' keys lie."""
        return self.folder / "sites"

    def key_file(self, site: str) -> Path:
        """Where an admitted site's key lies."""
        return self.keys / f"{site}.pub"

    def token_file(self, site: str) -> Path:
        """Where the token for a hospital lies until it is given away."""
        return self.folder / "tokens" / f"{site}.token"

    def request_file(self, site: str) -> Path:
        """Where a request lies that waits."""
        return self.keys / "pending" / f"{site}.join"

    def invite(self, site: str, *, address: str, ca_certificate: Path, days: float) -> Path:
        """Make a token for a site; an earlier one of its loses its worth."""
        token = Token(
            site=site,
            address=address,
            ca_certificate=ca_certificate.read_text(),
            seed=secrets.token_hex(32),
            expires_at=_now() + dt.timedelta(days=days),
            replaces=self._last_key(site),
        )
        with self._locked():
            path = self.token_file(site)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_bytes_atomically(path, token.line().encode() + b"\n", mode=0o600)
            self._keep(Invitation(site=site, token_id=token.id, expires_at=token.expires_at))
            self.request_file(site).unlink(missing_ok=True)
        return path

    def invitation(self, site: str) -> Invitation | None:
        """Return what is kept of the site's last token."""
        path = self._invitation_file(site)
        try:
            return Invitation.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise ConfigError(
                f"{path} is damaged; make a new token with `feat-fed provision rotate`"
            ) from error

    def receive(self, content: bytes) -> tuple[JoinRequest, JoinState]:
        """Take a request of anybody's making; one that comes again changes nothing.

        Raises
        ------
        JoinRefusedError
            If it is turned away.
        """
        try:
            request = JoinRequest.parse(content)
        except ProtocolError:
            raise JoinRefusedError(BAD_REQUEST) from None
        with self._locked():
            invitation = self.invitation(request.site)
            if invitation is None or invitation.token_id != request.token_id:
                raise JoinRefusedError(UNKNOWN_TOKEN)
            if self._is_revoked(request.public_key):
                raise JoinRefusedError(REVOKED_KEY)
            if invitation.used_by not in (None, request.fingerprint):
                raise JoinRefusedError(USED_TOKEN)
            if self._is_admitted(request):
                return request, "admitted"
            if invitation.used_by is None and invitation.has_expired:
                raise JoinRefusedError(EXPIRED_TOKEN)
            if self.pending(request.site) != request:
                self._put(request)
                self._keep(invitation.model_copy(update={"used_by": request.fingerprint}))
        return request, "pending"

    def pending(self, site: str) -> JoinRequest | None:
        """Return the request of a site that waits."""
        try:
            content = self.request_file(site).read_bytes()
        except FileNotFoundError:
            return None
        try:
            return JoinRequest.parse(content[: MAX_REQUEST_BYTES + 1])
        except ProtocolError as error:
            raise ConfigError(f"{self.request_file(site)}: {error}; ask for it again") from error

    def all_pending(self) -> list[JoinRequest]:
        """Return the requests that wait."""
        names = sorted(each.stem for each in (self.keys / "pending").glob("*.join"))
        return [request for name in names if (request := self.pending(name))]

    def approve(self, request: JoinRequest, *, replace: bool) -> None:
        """Admit the key of a request; the key that it replaces never comes back.

        Raises
        ------
        ConfigError
            If the site has a key and ``replace`` does not allow another, or it is another site's.
        """
        site, path = request.site, self.key_file(request.site)
        with self._locked():
            if other := self._other_of_key(request):
                raise ConfigError(
                    f"{site} asks with the key of {other}, and each hospital needs its own: "
                    f"`feat-fed provision rotate` makes a token with which {site} runs `feat-fed "
                    "join` in a folder of its own"
                )
            if self._is_revoked(request.public_key):
                raise ConfigError(f"the key of this request was revoked; {site} needs a new one")
            if path.exists() and not self._is_admitted(request):
                if not replace:
                    raise ConfigError(
                        f"{site} has a key already ({read_site_key(path)[1]}): --replace puts the "
                        "new one in its place, and the old one never comes back"
                    )
                self._revoke(site, "replaced")
            write_bytes_atomically(path, request.public_key.encode() + b"\n")
            self.request_file(site).unlink(missing_ok=True)
            self.token_file(site).unlink(missing_ok=True)

    def revoke(self, site: str) -> bool:
        """Take a site's key out for good, and its request and its token with it.

        Returns whether it had a key.
        """
        with self._locked():
            for each in (self.token_file, self._invitation_file, self.request_file):
                each(site).unlink(missing_ok=True)
            if had_key := self.key_file(site).exists():
                self._revoke(site, "revoked")
        return had_key

    def revoked(self) -> tuple[Revoked, ...]:
        """Return the keys that never come back."""
        path = self.keys / "revoked.json"
        try:
            return _REVOKED.validate_json(path.read_bytes())
        except FileNotFoundError:
            return ()
        except ValidationError as error:
            raise ConfigError(f"{path} is damaged; take it from a backup") from error

    def members(self, names: Iterable[str]) -> dict[bytes, str]:
        """Return the admitted ones among these sites: the name by the key (PEM).

        Raises
        ------
        ConfigError
            If a file is no public key, two sites have one key, or one was revoked.
        """
        with self._locked():  # nobody is half-way revoked or replaced
            found: dict[bytes, str] = {}
            revoked = {each.public_key for each in self.revoked()}
            for name in names:
                path = self.key_file(name)
                if not path.is_file():
                    continue
                pem, _ = read_site_key(path)
                if pem in found:
                    raise ConfigError(
                        f"{path} holds the same key as {found[pem]}.pub; each site needs its own"
                    )
                if public_text(read_public_key(path.read_bytes())) in revoked:
                    raise ConfigError(
                        f"{path} holds a key that was revoked; {name} needs a new one"
                    )
                found[pem] = name
        return found

    def stamp(self) -> object:
        """Return what differs when a key or a request has come or gone."""
        return tuple(
            each.stat().st_mtime_ns if each.exists() else 0
            for each in (self.keys, self.keys / "pending")
        )

    def _revoke(self, site: str, why: Literal["revoked", "replaced"]) -> None:
        path = self.key_file(site)
        text = public_text(read_public_key(path.read_bytes()))
        entry = Revoked(site=site, public_key=text, at=_now(), why=why)
        # On the list first: whatever happens in between, the key is out.
        content = _REVOKED.dump_json((*self.revoked(), entry), indent=1)
        write_bytes_atomically(self.keys / "revoked.json", content)
        path.unlink()

    def _last_key(self, site: str) -> Fingerprint | None:
        """Return the key that a site has, or had until it was taken out."""
        if (path := self.key_file(site)).exists():
            return read_site_key(path)[1]
        taken_out = [each.public_key for each in self.revoked() if each.site == site]
        return fingerprint(read_public_key(taken_out[-1].encode())) if taken_out else None

    def _is_revoked(self, public_key: str) -> bool:
        return any(each.public_key == public_key for each in self.revoked())

    def _other_of_key(self, request: JoinRequest) -> str | None:
        """Return another site that is admitted with the request's key."""
        for path in self.keys.glob("*.pub"):
            if path != self.key_file(request.site):
                with contextlib.suppress(ConfigError):  # no key of anybody's
                    if read_site_key(path)[1] == request.fingerprint:
                        return path.stem
        return None

    def _is_admitted(self, request: JoinRequest) -> bool:
        path = self.key_file(request.site)
        return path.is_file() and read_site_key(path)[1] == request.fingerprint

    def _put(self, request: JoinRequest) -> None:
        path = self.request_file(request.site)
        path.parent.mkdir(exist_ok=True)
        write_bytes_atomically(path, request.model_dump_json().encode())

    def _invitation_file(self, site: str) -> Path:
        return self.keys / "invited" / f"{site}.json"

    def _keep(self, invitation: Invitation) -> None:
        path = self._invitation_file(invitation.site)
        path.parent.mkdir(exist_ok=True)
        write_bytes_atomically(path, invitation.model_dump_json(indent=1).encode())

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Keep keys, requests and tokens as they are for the block."""
        with self._locked():
            yield

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.keys.mkdir(exist_ok=True)
        with (self.keys / ".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def read_site_key(path: Path) -> tuple[bytes, str]:
    """Return a site's public key (PEM, as Flower wants it) and its fingerprint.

    Raises
    ------
    ConfigError
        If the file holds none.
    """
    try:
        key = read_public_key(path.read_bytes())
    except ProtocolError as error:
        raise ConfigError(
            f"{path}: {error}; a hospital makes one with `feat-fed join` or `feat-fed keygen`"
        ) from error
    return key_pem(key), fingerprint(key)


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)
