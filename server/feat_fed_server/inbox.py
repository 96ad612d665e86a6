"""A round's accepted updates, on disk: a server that was killed asks for none of them again.

Flower forgets a message once it was pulled, so an update is put here before anything else is
done with it, and only what is here is aggregated: memory does not grow with the sites.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue, ValidationError
from torch import Tensor

from feat_fed.atomic import remove_parts, write_bytes_atomically
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.protocol import Report
from feat_fed.report.records import RoundRecord
from feat_fed.report.round_manifest import Standing as StandingTree
from feat_fed.tensor_file import read_tensors, verify_tensor_file, write_tensor_file

log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"


class Arrived(StrictModel):
    """An accepted update, all but its weights."""

    schema_version: Literal[1] = 1
    report: Report
    norm: float = Field(ge=0)
    """L2 norm of what the site changed, over all floats."""
    bytes_down: int = Field(0, ge=0)
    bytes_up: int = Field(ge=0)
    base_round: int = Field(ge=0)
    """The round that it answers."""
    digest: str
    """SHA-256 of the update as it travelled."""
    answer_sec: float | None = None
    """From asking to the answer."""
    answered_at: float | None = None
    """Unix time."""


class ClosedNote(StrictModel):
    """With it, a round's updates are all there; the record tells who sent none, and why."""

    schema_version: Literal[1] = 1
    sites: tuple[str, ...]
    record: RoundRecord
    standing: dict[str, JsonValue]
    noise_seed: str | None = None
    """Of the round's noise, in a study with central privacy."""


class Inbox:
    """The folder ``inbox/round-0007/`` of a run: ``SITE.safetensors`` each, and ``closed.json``.

    Files are whole, and verified when the folder is opened. A damaged or foreign one is removed,
    and its site has to be asked again. Nobody waits until they are on the disk itself, which costs
    more than all else in a round: what a power cut takes is still in the site's spool.

    Parameters
    ----------
    folder
        It need not exist.

    Raises
    ------
    StorageError
        If it cannot be made or tidied.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arrived: dict[str, Arrived] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # sites' own updates
            remove_parts(folder)
            for path in sorted(folder.glob(f"*{_SUFFIX}")):
                self._take(path)
        except OSError as error:
            raise StorageError(f"{folder} cannot be used: {error}") from error

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self._folder

    def put(self, arrived: Arrived, weights: Mapping[str, Tensor]) -> None:
        """Write a site's update; an older one of the site is replaced.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        site = arrived.report.site
        write_tensor_file(self._path(site), weights, arrived, durable=False)
        self._arrived[site] = arrived

    def arrived(self) -> list[Arrived]:
        """Return what is there, by the site's name."""
        return [self._arrived[site] for site in sorted(self._arrived)]

    def read(self, site: str, names: Sequence[str]) -> dict[str, Tensor]:
        """Return some of a site's tensors.

        Raises
        ------
        CheckpointError
            If they cannot be read any more.
        """
        return read_tensors(self._path(site), names)

    def discard(self, site: str) -> None:
        """Remove a site's update, if there is one."""
        self._arrived.pop(site, None)
        self._path(site).unlink(missing_ok=True)

    def close(
        self, record: RoundRecord, standing: StandingTree, noise_seed: str | None = None
    ) -> ClosedNote:
        """Note that nobody is asked any more; a round that is done again then aggregates the same.

        Parameters
        ----------
        standing
            What the round has taught of the sites.
        noise_seed
            What the round's noise follows from, where it has any.

        Raises
        ------
        StorageError
            If it cannot be written.
        """
        closed = ClosedNote(
            sites=tuple(sorted(self._arrived)),
            record=record,
            standing=dict(standing),
            noise_seed=noise_seed,
        )
        try:
            text = closed.model_dump_json()
            write_bytes_atomically(self._closed, text.encode(), mode=0o600, durable=False)
        except OSError as error:
            raise StorageError(f"{self._closed} cannot be written: {error}") from error
        return closed

    def closed(self) -> ClosedNote | None:
        """Return with what it was closed, if it was and all its updates are there."""
        try:
            closed = ClosedNote.model_validate_json(self._closed.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            log.warning("%s is damaged; sites that sent no update are asked again", self._closed)
            return None
        return closed if closed.sites == tuple(sorted(self._arrived)) else None

    def clear(self) -> None:
        """Remove the folder."""
        self._arrived.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _closed(self) -> Path:
        return self._folder / "closed.json"

    def _path(self, site: str) -> Path:
        return self._folder / f"{site}{_SUFFIX}"

    def _take(self, path: Path) -> None:
        try:
            arrived = verify_tensor_file(path, Arrived)
            if arrived.report.site != path.stem:
                raise CheckpointError(f"{path} holds an update of {arrived.report.site}")
        except CheckpointError as error:
            log.warning("an update is removed, and its site is asked again: %s", error)
            path.unlink()
            return
        self._arrived[arrived.report.site] = arrived


def clear_inboxes(root: Path, *, keep: Collection[Path] = ()) -> None:
    """Remove the folders of rounds but some; also later rounds' after a step back."""
    for folder in root.glob("round-*"):
        if folder not in keep:
            shutil.rmtree(folder, ignore_errors=True)
