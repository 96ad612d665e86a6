"""What takes longest comes first, and the rest is done beside it: no worker is alone at the end."""

from pathlib import Path

import pytest

STUDIES = Path(__file__).with_name("system")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put whole studies before all others, and then files with a test that is marked as slow."""
    slow = {each.path for each in items if each.get_closest_marker("slow")}
    items.sort(key=lambda each: (STUDIES not in each.path.parents, each.path not in slow))
