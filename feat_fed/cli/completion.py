"""What the shell offers when a person presses the tab key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import typer

from feat_fed.config import built_in_studies, load_federation
from feat_fed.errors import FeatFedError

_RUNS = Path("runs")


def studies(incomplete: str) -> list[str]:
    """Return built-in studies, and YAML files and folders that begin so."""
    names = [each for each in built_in_studies() if each.startswith(incomplete)]
    return [*names, *_files(incomplete, ".yaml", ".yml")]


def run_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the names of runs in the folder of ``--runs``."""
    folder = Path(ctx.params.get("runs") or _RUNS)
    return [each.name for each in _runs_in(folder) if each.name.startswith(incomplete)]


def run_folders(incomplete: str) -> list[str]:
    """Return the runs below ``runs``, and folders that begin so."""
    runs = [str(each) for each in _runs_in(_RUNS) if str(each).startswith(incomplete)]
    return runs or _files(incomplete)


def sites(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the sites of the federation's file that was given, or of ``federation.yaml``."""
    file = Path(ctx.params.get("federation") or "federation.yaml")
    with contextlib.suppress(FeatFedError):
        return [each for each in load_federation(file).sites if each.startswith(incomplete)]
    return []


def _runs_in(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(each for each in folder.iterdir() if (each / "study.yaml").is_file())


def _files(incomplete: str, *suffixes: str) -> list[str]:
    """Return folders, and files with a suffix, of which the path begins so."""
    head, _, start = incomplete.rpartition("/")
    folder = Path(f"{head}/" if "/" in incomplete else ".").expanduser()
    prefix = f"{head}/" if "/" in incomplete else ""
    with contextlib.suppress(OSError):
        return sorted(
            f"{prefix}{each.name}" + ("/" if each.is_dir() else "")
            for each in folder.iterdir()
            if each.name.startswith(start)
            and (start.startswith(".") or not each.name.startswith("."))
            and (each.is_dir() or each.suffix in suffixes)
        )
    return []
