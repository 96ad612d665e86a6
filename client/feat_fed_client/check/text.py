"""Errors as they may leave the site: without paths."""

from __future__ import annotations

import re
from pathlib import Path

from feat_fed.config import SiteConfig

# A path may hold any character but a line's end, so nothing in a line says where it ends but the
# last of the quotes that it stands in.
_QUOTED = re.compile(r"(?<!\w)([\"'])/.*\1")
_ELSEWHERE = re.compile(r"(?<![\w>/])/\S.*")


def without_paths(text: str, site: SiteConfig) -> str:
    """Return an error's text with the site's paths replaced by the fields that hold them.

    Of any other path all is cut that may belong to it: to the end of the line, or of the quotes.
    """
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
        text = re.sub(rf"{re.escape(path)}(?![\w-])", name, text)
    text = re.sub(r"<data\.paths>/.*", "<data.paths>/...", text)
    return _ELSEWHERE.sub("<path>", _QUOTED.sub(r"\1<path>\1", text))


def told_and_mend(text: str, site: SiteConfig) -> tuple[str, str]:
    """Return what an error of ours says was found and what to do, without paths."""
    told, _, mend = without_paths(text, site).rpartition("; ")
    return (told, mend) if told else (mend, "do what it says, and check again")
