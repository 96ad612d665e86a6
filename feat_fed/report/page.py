"""Templates into pages; every page is one file that asks the net for nothing."""

from __future__ import annotations

import base64
from collections.abc import Mapping

from jinja2 import Environment, PackageLoader, StrictUndefined

from feat_fed.report import units


def render(template: str, facts: Mapping[str, object]) -> str:
    """Fill in one of this package's templates; all text is escaped."""
    environment = Environment(
        loader=PackageLoader("feat_fed.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "bytes": units.format_bytes,
        "count": units.format_count,
        "epsilon": units.format_epsilon,
        "duration": units.format_duration,
        "loss": units.format_loss,
        "metric": units.format_metric,
        "time": units.format_time,
    }
    return environment.get_template(template).render(facts)


def data_url(content: bytes, kind: str) -> str:
    """Return a file's content as an address of its own; ``kind`` is its media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
