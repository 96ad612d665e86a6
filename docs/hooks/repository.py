"""Files of the repository outside of ``docs/`` that pages link to, as pages of their own."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = "repository"

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
_LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".conf": "nginx", ".sh": "bash"}


def linked(page: str, text: str) -> Iterator[str]:
    """Yield the paths, from the repository's root, that a page of ``docs/`` links to."""
    for _, target, _ in _LINK.findall(text):
        path = _outside(page, target)
        if path is not None:
            yield path


def rewritten(page: str, text: str) -> str:
    """Return the page's text with such links to the pages made here."""

    def link(found: re.Match[str]) -> str:
        path = _outside(page, found[2])
        if path is None:
            return found[0]
        there = posixpath.relpath(f"{FOLDER}/{path}.md", posixpath.dirname(page) or ".")
        return f"[{found[1]}]({there})"

    return _LINK.sub(link, text)


def source_page(path: str) -> str:
    """Return a page that shows a file, or each file of a folder."""
    files = sorted((ROOT / path).rglob("*")) if (ROOT / path).is_dir() else [ROOT / path]
    parts = ["---\nsearch: {exclude: true}\n---", f"# {path}"]
    for each in files:
        if each.is_file() and "__pycache__" not in each.parts:
            name = each.relative_to(ROOT).as_posix()
            text = each.read_text(encoding="utf-8", errors="replace")
            parts += [f"## {name}"] if name != path else []
            parts.append(f"`````{_LANGUAGES.get(each.suffix, 'text')}\n{text}\n`````")
    return "\n\n".join(parts) + "\n"


def _outside(page: str, target: str) -> str | None:
    """Return the target's path from the repository's root, where it is there and not a page."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    if path.startswith(("docs/", "..")) or not (ROOT / path).exists():
        return None
    return path
