"""Which application bundles a site lets run: by its file, and by a person's word in its store.

The site's file stays as its engineer wrote it. ``trusted-bundles.json`` in the store holds what
``feat-fed site trust`` approved and withdrew since; a withdrawal counts more than the file.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.audit import AuditLog
from feat_fed.audit.events import Sha256, TaskReceived, TrustChanged
from feat_fed.config import SiteConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import ConfigError
from feat_fed.wire import bundle

MAX_BUNDLE_BYTES = 1024**2
"""A larger one is refused unread; ours has under two kilobytes."""

_FILE = "trusted-bundles.json"


class Decisions(StrictModel):
    """What a person decided on bundles."""

    schema_version: Literal[1] = 1
    approved: tuple[Sha256, ...] = ()
    withdrawn: tuple[Sha256, ...] = ()


@functools.cache
def own_bundle() -> tuple[bytes, str]:
    """Return the bundle that this installation builds, and its SHA-256."""
    return bundle()


def trusted_bundles(site: SiteConfig) -> frozenset[str]:
    """Return the SHA-256 of all bundles that may run at the site.

    Raises
    ------
    ConfigError
        If what was decided cannot be read: nothing may run then.
    """
    decided = _read(site.store)
    by_file = site.trusted_bundles or (own_bundle()[1],)
    return frozenset({*by_file, *decided.approved} - {*decided.withdrawn})


def approve(site: SiteConfig, digest: str) -> None:
    """Let a bundle run, from the next message on."""
    decided = _read(site.store)
    _decide(
        site,
        TrustChanged(kind="bundle-approved", bundle_sha256=digest),
        approved={*decided.approved, digest},
        withdrawn={*decided.withdrawn} - {digest},
    )


def withdraw(site: SiteConfig, digest: str) -> None:
    """Let a bundle run no more, from the next message on."""
    decided = _read(site.store)
    _decide(
        site,
        TrustChanged(kind="bundle-withdrawn", bundle_sha256=digest),
        approved={*decided.approved} - {digest},
        withdrawn={*decided.withdrawn, digest},
    )


def last_asked(site: SiteConfig) -> TaskReceived | None:
    """Return the last task that came, by the site's audit log."""
    line = AuditLog.of_site(site.store, site.name).last("task-received")
    return TaskReceived.model_validate(line.event) if line else None


def _decide(
    site: SiteConfig, event: TrustChanged, *, approved: set[str], withdrawn: set[str]
) -> None:
    decisions = Decisions(approved=tuple(sorted(approved)), withdrawn=tuple(sorted(withdrawn)))
    AuditLog.of_site(site.store, site.name).append(event)
    content = decisions.model_dump_json(indent=1).encode() + b"\n"
    write_bytes_atomically(site.store / _FILE, content, mode=0o600)


def _read(store: Path) -> Decisions:
    path = store / _FILE
    try:
        return Decisions.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Decisions()
    except (OSError, ValidationError) as error:
        raise ConfigError(
            f"{path} cannot be read, so no bundle may run: repair it, or remove it and approve "
            "again with `feat-fed site trust`"
        ) from error
