"""What a client's screen is told of its connection, without telling it again and again."""

from __future__ import annotations

from collections.abc import Callable


class Lines:
    """Tells each trouble once until the site is connected anew.

    Before a proxy whose server is down, troubles take turns, one or two a second.

    Parameters
    ----------
    tell
        Called with a line for the screen.
    connected
        The line that says that all is well.
    """

    def __init__(self, tell: Callable[[str], None], connected: str) -> None:
        self._tell = tell
        self._connected = connected
        self._told: set[str] = set()

    def connected(self) -> None:
        """Say that all is well, if it was not; every trouble to come is news again."""
        if self._connected not in self._told:
            self._told = {self._connected}
            self._tell(self._connected)

    def trouble(self, line: str) -> None:
        """Say why the site is not connected."""
        self._told.discard(self._connected)
        self.once(line)

    def once(self, line: str) -> None:
        """Say something that does not touch the connection."""
        if line not in self._told:
            self._told.add(line)
            self._tell(line)
