"""Numbers and errors as a person reads them."""

from __future__ import annotations

import re
from pathlib import Path

from feat_fed.config import SiteConfig

_ELSEWHERE = re.compile(r"(?<![\w>/])/[^\s:;,)\"']+")


def gb(size_bytes: float) -> str:
    """Return bytes as GB, or MB where those are few."""
    return f"{size_bytes / 1e9:.3g} GB" if size_bytes >= 1e8 else f"{size_bytes / 1e6:.3g} MB"


def duration(seconds: float) -> str:
    """Return seconds in the unit that a person would use."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds:.1g} s"


def without_paths(text: str, site: SiteConfig) -> str:
    """Return an error's text with the site's paths replaced by the fields that hold them."""
    fields: list[tuple[Path | None, str]] = [
        (site.store, "<store>"),
        (site.codec_weights, "<codec_weights>"),
        *((each, "<data.paths>") for each in site.data.paths),
    ]
    if site.server is not None:
        fields += [
            (site.server.private_key, "<server.private_key>"),
            (site.server.ca_certificate, "<server.ca_certificate>"),
        ]
    named = [(str(path), name) for path, name in fields if path is not None]
    for path, name in sorted(named, key=lambda each: -len(each[0])):
        text = text.replace(path, name)
    text = re.sub(r"<data\.paths>/.*", "<data.paths>/...", text)
    return _ELSEWHERE.sub("<path>", text)


def told_and_mend(text: str, site: SiteConfig) -> tuple[str, str]:
    """Return what an error of ours says was found and what to do, without paths."""
    told, _, mend = without_paths(text, site).rpartition("; ")
    return (told, mend) if told else (mend, "do what it says, and check again")
