"""Numbers as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

NOTHING = "–"  # noqa: RUF001
"""What stands where there is no number."""

_BYTE_UNITS = (("GB", 10**9), ("MB", 10**6), ("kB", 10**3), ("B", 1))
_ROUNDS_UP = 0.9995
"""From this share of a unit on, three digits round to the whole unit."""
_TIME_UNITS = (("h", 3600), ("min", 60), ("s", 1))


def bytes_unit(largest_bytes: float) -> tuple[str, int]:
    """Return the unit in which ``largest_bytes`` reads best, and its bytes (decimal, SI)."""
    return next(
        (unit for unit in _BYTE_UNITS if largest_bytes >= unit[1] * _ROUNDS_UP), _BYTE_UNITS[-1]
    )


def time_unit(longest_sec: float) -> tuple[str, int]:
    """Return the unit in which a scale up to ``longest_sec`` reads best, and its seconds."""
    return next((unit for unit in _TIME_UNITS if longest_sec >= 3 * unit[1]), _TIME_UNITS[-1])


def format_bytes(number: int) -> str:
    """Write 1234567 as ``1.23 MB``."""
    name, size = bytes_unit(number)
    amount = number / size
    return f"{amount:.3g} {name}" if amount < 1000 * _ROUNDS_UP else f"{amount:,.0f} {name}"


def format_duration(sec: float) -> str:
    """Write 75 as ``1 min 15 s``, with the two largest units."""
    if round(sec, 1) < 10:
        return f"{sec:.1f} s"
    minutes, seconds = divmod(round(sec), 60)
    if not minutes:
        return f"{seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def format_loss(loss: float | None) -> str:
    """Write a loss to four digits."""
    return NOTHING if loss is None else f"{loss:#.4g}"


def format_metric(value: float) -> str:
    """Write a metric to four digits, and from 1,000 on to the whole number."""
    if abs(value) >= 999.95:
        return f"{value:,.0f}"
    return f"{value:#.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.3e}"


def format_epsilon(epsilon: float | None) -> str:
    """Write a bound to three digits, and never less than it is."""
    if epsilon is None:
        return NOTHING
    if epsilon == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(epsilon)))
    return f"{math.ceil(round(epsilon * 10**digits, 6)) / 10**digits:.{digits}f}"


def format_count(number: int) -> str:
    """Write 12000 as ``12,000``."""
    return f"{number:,}"


def format_time(iso: str) -> str:
    """Write an ISO 8601 time as ``2026-01-31 12:00 UTC``."""
    return datetime.fromisoformat(iso).astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def format_span(start_iso: str, end_iso: str) -> str:
    """Write two times as one span, the day once where it is one day."""
    start, end = format_time(start_iso), format_time(end_iso)
    day, clock = end.split(" ", 1)
    return f"{start.removesuffix(' UTC')} – {clock if start.startswith(day) else end}"  # noqa: RUF001
