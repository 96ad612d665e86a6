"""What to lower where memory does not suffice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from feat_fed.errors import MemoryShortError
from feat_fed.train.faults import is_short_of_memory


@contextmanager
def enough_memory(what: str, *, lower: str) -> Iterator[None]:
    """Raise an error of memory, of the machine or of a GPU, as one that says what to lower.

    Raises
    ------
    MemoryShortError
        When memory does not suffice in the block.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_short_of_memory(error):
            raise
        raise MemoryShortError(
            f"memory does not suffice to measure {what}: lower {lower}"
        ) from error
