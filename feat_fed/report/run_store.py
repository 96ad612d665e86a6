"""A run's folder: the one place that knows what lies where in ``runs/<name>/``.

::

    study.yaml          the resolved study; its presence makes the folder a run
    summary.json        where the run stands (RunSummary), replaced whole
    metrics.jsonl       one RoundRecord a line, appended and flushed
    checkpoints/        round-0003.safetensors, ema-0003.safetensors, optimiser-0003.safetensors
                        (of the server, where it has one), and round-0003.json, with which the
                        round is done; 0 is the untrained model; *.damaged was set aside
    inbox/              round-0004/: the updates of the round that goes on
    samples/            samples.mp4, samples.gif, contact-sheet.png, drawn.json
    release/            what `feat-fed release` asked, decided and let through
    tensorboard/        curves of the rounds and of what was measured
    logs/
    live.json           where the study stands at this moment
    roster.json         which public key is which site
    sites.json          which sites the coordinator keeps out or has let in again
    links.json          what went over the wire so far, by site (Links)
    flower/             Flower's own files
    parts/              weights on their way between the server's processes, while it runs
    evaluation/         what was measured of the rounds (EvaluationFolder)
    report.html
"""

from __future__ import annotations

import contextlib
import fcntl
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import ValidationError

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import StudyConfig, dump_yaml, load_study
from feat_fed.errors import ConfigError, RunError
from feat_fed.lock import is_held
from feat_fed.privacy.resolve import resolved
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.json_lines import append_record
from feat_fed.report.links import LINKS_FILE
from feat_fed.report.live import LIVE_FILE
from feat_fed.report.records import RoundRecord, RunSummary
from feat_fed.versions import installed_versions

_MAY_CHANGE = (
    "rounds",
    "sites",
    "screening",
    "sampler",
    "checkpoints",
    "evaluation",
    "codec.weights",
)
"""Parts of a study that a resumed run may change: the weights so far stay comparable. Where the
codec's weights lie is one, since the study names their SHA-256."""

RUN_FOLDERS = ("checkpoints", "samples", "logs")
"""That every run has from its beginning."""

_OF_A_ROUND = re.compile(r"(?:round|ema|optimiser)-(\d+)\.(?:safetensors|json)")


@dataclass(frozen=True)
class SampleFiles:
    """The generated clips, three ways."""

    mp4: Path
    gif: Path
    contact_sheet: Path

    @classmethod
    def under(cls, folder: Path) -> Self:
        """Name the files in ``folder``, whether they exist or not."""
        return cls(folder / "samples.mp4", folder / "samples.gif", folder / "contact-sheet.png")


class RunStore:
    """A run that exists; :meth:`create` makes one, :meth:`resume` opens one to go on.

    One process writes a run; any number may read it meanwhile. For a run that can
    be killed anywhere: append a round's record, then write its checkpoints, its manifest
    last. A round without a manifest is done again, and its second record replaces the first.

    Parameters
    ----------
    root
        The run's folder, with a readable ``study.yaml`` in it.

    Raises
    ------
    RunError
        The folder is not a run, or its study is damaged.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.study = _read_study(root)
        self.samples = root / "samples"
        self.logs = root / "logs"
        self.report = root / "report.html"
        self.live = root / LIVE_FILE
        self.roster = root / "roster.json"
        self.links = root / LINKS_FILE
        self.flower = root / "flower"
        self.parts = root / "parts"

    @classmethod
    def create(cls, root: Path, study: StudyConfig) -> Self:
        """Lay out a new run in an absent or empty folder.

        Raises
        ------
        RunError
            The folder is a run or holds other things, or cannot be made.
        ConfigError
            The study's privacy cannot be had (:func:`feat_fed.privacy.resolve.resolved`).
        """
        if (root / "study.yaml").exists():
            raise RunError(f"{root} is a run already: resume it, or give the new run another name")
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise RunError(f"{root} exists and is not a run: give the run another name")
        study = resolved(study)
        summary = RunSummary(
            study=study.name,
            study_id=uuid.uuid4().hex,
            versions=installed_versions(),
            state="running",
            rounds_done=0,
            rounds_wanted=study.rounds,
        )
        try:
            for name in RUN_FOLDERS:
                (root / name).mkdir(parents=True)
            write_bytes_atomically(root / "metrics.jsonl", b"")
            write_bytes_atomically(root / "summary.json", _json(summary))
            write_bytes_atomically(root / "study.yaml", dump_yaml(study).encode())
        except OSError as error:
            raise RunError(f"the run's folder {root} cannot be made: {error}") from error
        return cls(root)

    @classmethod
    def resume(cls, root: Path, study: StudyConfig) -> Self:
        """Open a run of ``study``; only what :data:`_MAY_CHANGE` names may have changed.

        Raises
        ------
        RunError
            The folder is not a run, or is one of another study.
        ConfigError
            With the noise that the run began with, the rounds asked for spend too much.
        """
        store = cls(root)
        study = resolved(study, begun=store.study)
        differences = _differences(store.study.model_dump(), study.model_dump())
        fatal = [f"  {field}: {what}" for field, what in differences.items() if _fixes(field)]
        if fatal:
            advice = "give this run another name, or change back:"
            raise RunError("\n".join([f"{root} is a run of another study; {advice}", *fatal]))
        if differences:
            write_bytes_atomically(root / "study.yaml", dump_yaml(study).encode())
            store.study = study
        return store

    def checkpoint(self, round_number: int) -> Path:
        """Name the file of the global weights after a round; 0 is the untrained model."""
        return self.root / "checkpoints" / f"round-{round_number:04d}.safetensors"

    def ema(self, round_number: int) -> Path:
        """Name the file of the averaged global weights after a round."""
        return self.root / "checkpoints" / f"ema-{round_number:04d}.safetensors"

    def weights_file(self, kind: Literal["ema", "global"], round_number: int) -> Path:
        """Name a round's file where it is: also the best round's, kept from rotation."""
        path = {"ema": self.ema, "global": self.checkpoint}[kind](round_number)
        held = EvaluationFolder.of_run(self.root).checkpoints / path.name
        return held if held.exists() and not path.exists() else path

    def optimiser(self, round_number: int) -> Path:
        """Name the file of the server optimiser's state after a round."""
        return self.root / "checkpoints" / f"optimiser-{round_number:04d}.safetensors"

    def manifest(self, round_number: int) -> Path:
        """Name the file with which a round is done; it tells the others' digests."""
        return self.root / "checkpoints" / f"round-{round_number:04d}.json"

    @property
    def outgoing(self) -> Path:
        """Name the folder of what the sites were sent."""
        return self.root / "outgoing"

    def inbox(self, round_number: int) -> Path:
        """Name the folder of the updates that have arrived in a round."""
        return self.root / "inbox" / f"round-{round_number:04d}"

    def files_of(self, round_number: int) -> tuple[Path, ...]:
        """Name all files that a round may have, the manifest first."""
        names = (self.manifest, self.checkpoint, self.ema, self.optimiser)
        return tuple(name(round_number) for name in names)

    def rounds_with_files(self) -> list[int]:
        """Return the rounds that have any file in ``checkpoints/``, in order."""
        names = (each.name for each in (self.root / "checkpoints").iterdir())
        matches = (_OF_A_ROUND.fullmatch(name) for name in names)
        return sorted({int(match[1]) for match in matches if match})

    def done_rounds(self) -> list[int]:
        """Return the rounds that are done, in order.

        Where no round at all has a manifest, as in a run of before there were any, those that
        have both weights files.
        """
        rounds = self.rounds_with_files()
        done = [each for each in rounds if self.manifest(each).exists()]
        return done or [
            each for each in rounds if self.checkpoint(each).exists() and self.ema(each).exists()
        ]

    def latest_round(self) -> int | None:
        """Return the last round that is done, or None."""
        return max(self.done_rounds(), default=None)

    def append(self, record: RoundRecord) -> None:
        """Add a round's record and flush it to disk; a torn last line is cut off first."""
        append_record(self.root / "metrics.jsonl", record)

    def rounds(self) -> tuple[RoundRecord, ...]:
        """Return the rounds in order, each by its last record."""
        records = {each.round: each for each in self.records()}
        return tuple(records[number] for number in sorted(records))

    def records(self) -> tuple[RoundRecord, ...]:
        """Return every record, as they were appended; a round that was done again has several.

        A line without its end is what a crash left of an append; it is passed over.
        """
        path = self.root / "metrics.jsonl"
        *whole, _torn = _read_bytes(path).split(b"\n")
        records = []
        for number, line in enumerate(whole, start=1):
            try:
                records.append(RoundRecord.model_validate_json(line))
            except ValidationError as error:
                raise RunError(f"{path}, line {number}, is not a round: {_first(error)}") from None
        return tuple(records)

    def write_summary(self, summary: RunSummary) -> None:
        """Replace the run's summary."""
        write_bytes_atomically(self.root / "summary.json", _json(summary))

    def summary(self) -> RunSummary:
        """Return where the run stands."""
        path = self.root / "summary.json"
        try:
            return RunSummary.model_validate_json(_read_bytes(path))
        except ValidationError as error:
            raise RunError(f"{path} is damaged: {_first(error)}") from None


@contextlib.contextmanager
def lock_run(root: Path, part: str = "run", *, wait_sec: float = 0.0) -> Iterator[None]:
    """Hold a run, there already or not yet, for the block.

    The lock ends with the process, however that ends.

    Raises
    ------
    RunError
        If another process holds it for longer than ``wait_sec``, or no file can be made there.
    """
    deadline = time.monotonic() + wait_sec
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock_file(root, part).open("w")
    except OSError as error:
        raise RunError(f"the run's folder {root} cannot be made: {error}") from error
    with lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise RunError(
                        f"{root} is being written by another process: wait for it or stop it"
                    ) from None
                time.sleep(0.2)
        yield


def is_locked(root: Path, part: str = "run") -> bool:
    """Whether a process holds a run by :func:`lock_run`."""
    return is_held(_lock_file(root, part))


def _lock_file(root: Path, part: str) -> Path:
    return root.parent / f".{root.name}.{part}.lock"


def _read_study(root: Path) -> StudyConfig:
    path = root / "study.yaml"
    if not path.is_file():
        raise RunError(
            f"{root} is not a run: it has no study.yaml; name a run's folder, such as runs/demo"
        )
    try:
        return load_study(path)
    except ConfigError as error:
        raise RunError(f"{root} is a damaged run, or one of another version: {error}") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _json(summary: RunSummary) -> bytes:
    return summary.model_dump_json(indent=2).encode() + b"\n"


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def _fixes(field: str) -> bool:
    return not {field, field.split(".")[0]} & set(_MAY_CHANGE)


def _differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Map each dotted field that differs to a phrase that tells both values."""
    found: dict[str, str] = {}
    for key in {**old, **new}:
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found |= _differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found[prefix + key] = f"{before!r} in the run, {now!r} asked"
    return found
