"""Whether a client is at work with a store."""

from __future__ import annotations

from pathlib import Path

from feat_fed.lock import is_held
from feat_fed_client import CLIENT_LOCK


def client_is_running(store: Path) -> bool:
    """Whether a ``feat-fed client`` works with the store."""
    return is_held(store / CLIENT_LOCK)
