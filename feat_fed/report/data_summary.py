"""What virtual hospitals have, in counts, as the simulation dealt it out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, Self

from pydantic import ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config.base import StrictModel
from feat_fed.errors import RunError

_FILE = "hospitals.json"
_MOST_GROUPS = 8
OTHERS = "others"


class HospitalSummary(StrictModel):
    """One hospital; ``groups`` are patients by label or modality."""

    site: str
    patients: int
    clips: int
    groups: dict[str, int]


class DataSummary(StrictModel):
    """All hospitals of a simulation, and how they came to their patients."""

    partition: str
    by: Literal["label", "modality"]
    hospitals: tuple[HospitalSummary, ...]

    def table(self) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
        """Return the names of groups, those with most patients, and each hospital's counts."""
        total = sum((Counter(each.groups) for each in self.hospitals), Counter[str]())
        names = [name for name, _ in sorted(total.items(), key=lambda pair: (-pair[1], pair[0]))]
        most = _MOST_GROUPS if len(names) <= _MOST_GROUPS else _MOST_GROUPS - 1
        shown, rest = sorted(names[:most]), names[most:]
        counts = {
            each.site: tuple(each.groups.get(name, 0) for name in shown)
            + ((sum(each.groups.get(name, 0) for name in rest),) if rest else ())
            for each in self.hospitals
        }
        return (*shown, *([OTHERS] if rest else [])), counts

    @classmethod
    def read(cls, root: Path) -> Self | None:
        """Return what a run's folder has; None where no hospitals were dealt out (yet).

        Raises
        ------
        RunError
            If the file is damaged.
        """
        path = root / _FILE
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise RunError(f"{path} cannot be read: {error}") from None

    @staticmethod
    def remove(root: Path) -> None:
        """Remove the file from a run's folder, if it is there."""
        (root / _FILE).unlink(missing_ok=True)

    def write(self, root: Path) -> None:
        """Replace the file in a run's folder."""
        write_bytes_atomically(root / _FILE, self.model_dump_json(indent=1).encode())
