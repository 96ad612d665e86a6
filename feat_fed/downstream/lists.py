"""Lists of ``name,label`` lines, as PolypDiag has them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from feat_fed.errors import DataError

LISTS = ("train", "val")
"""What a data set must list; ``test`` is read in place of ``val`` where it is there."""

_HEADINGS = {"label", "class", "target"}


@dataclass(frozen=True)
class ListedClip:
    """A line of a list."""

    name: str
    label: str
    line: int


def find_list(folder: Path, name: str) -> Path | None:
    """Return where a list lies: in ``splits/`` or in the folder, ``.csv`` before ``.txt``."""
    names = (f"{name}.csv", f"{name}.txt")
    places = [folder / below / each for below in ("splits", ".") for each in names]
    return next((path for path in places if path.is_file()), None)


def read_list(path: Path) -> tuple[ListedClip, ...]:
    """Read a line a clip: its name below ``videos/``, a comma or blank, its class.

    Blank lines and a heading are passed over.

    Raises
    ------
    DataError
        When a line is of another form, a name stands twice, or the list is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"{path} cannot be read as text; write it anew, in UTF-8") from None
    clips: dict[str, ListedClip] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, label = _parts(line, f"{path}, line {number}")
        if number == 1 and label.lower() in _HEADINGS:
            continue
        if name in clips:
            raise DataError(
                f"{path}, line {number}: {name} stands in line {clips[name].line} too; keep one"
            )
        clips[name] = ListedClip(name, label, number)
    if not clips:
        raise DataError(f"{path} lists no clips; write a line `name,label` a clip")
    return tuple(clips.values())


def _parts(line: str, where: str) -> tuple[str, str]:
    parts = line.rsplit("," if "," in line else None, 1)
    name, label = (parts[0].strip(), parts[1].strip()) if len(parts) == 2 else ("", "")
    if not name or not label:
        raise DataError(f"{where}: {line.strip()!r} is no `name,label`; write the clip's class")
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(f"{where}: {name} is outside of the data set's folder; write a name in it")
    return name, label
