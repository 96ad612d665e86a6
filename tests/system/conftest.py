"""Whole studies come first: they take longest, and the rest is done beside them."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of this folder before all others."""
    items.sort(key=lambda item: HERE not in item.path.parents)
