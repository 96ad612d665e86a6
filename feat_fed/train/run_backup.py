"""What a backup of a run holds, taken while the server runs, and how it becomes a run again.

Files of a round never change once its manifest is there, so the rounds that are done are copied
as they are; the round that is under way is left out and done again. Left out, too: logs,
Flower's own files, the sites' single updates, and the features of real videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from pydantic import BaseModel

from feat_fed.archive import BackupWriter, Contents, new_backup, restored_folder, unpack
from feat_fed.audit import FOLDER as AUDIT
from feat_fed.audit import AuditLog
from feat_fed.audit.events import RunRestored
from feat_fed.audit.log import segments
from feat_fed.errors import BackupError, CheckpointError, RunError
from feat_fed.report.evaluation_folder import EVALUATION_FOLDER, EvaluationFolder
from feat_fed.report.round_manifest import read_manifest
from feat_fed.report.run_store import RUN_FOLDERS, RunStore, lock_run
from feat_fed.tensor_file import read_digest, verify_tensor_file

# The summary comes before the rounds, so that it tells of none that is not there.
_FIRST = ("summary.json", "study.yaml", "roster.json", "sites.json", "links.json", "report.html")
_FOLDERS = ("samples", "release", EVALUATION_FOLDER, "tensorboard")
_TRIES = 10
"""At finding a round that the rotation leaves in peace for long enough to be opened."""


class _AnyHeader(BaseModel):
    """Of weights and of a server optimiser's state alike."""


def back_up_run(root: Path, out: Path, *, tell: Callable[[str], None]) -> int:
    """Write a backup of a run, which may be under way; return the last round that is in it.

    Parameters
    ----------
    tell
        Called with what a person should know: of rounds that are left out, for they are damaged.

    Raises
    ------
    BackupError
        If no round is done and whole, or the backup cannot be written.
    RunError
        If ``root`` is no run.
    """
    store = RunStore(root)
    with new_backup(out) as backup:
        for name in _FIRST:
            backup.file(name, root / name)
        # A reference that is newer than the rounds is passed over, an older one is needed.
        _put_folder(backup, root, store.outgoing)
        rounds = _put_rounds(backup, store, tell)
        # What tells of rounds comes after them, so that all of them are told of.
        backup.content("metrics.jsonl", _whole_lines(root / "metrics.jsonl"))
        _put_audit(backup, root / AUDIT)
        for name in _FOLDERS:
            _put_folder(backup, root, root / name)
        backup.close("run", store.study.name, round_number=max(rounds), private_keys=False)
    return max(rounds)


def restore_run(path: Path, to: Path) -> Contents:
    """Make a run's folder of a backup, as it was between two rounds.

    The run's log and its summary say that it was restored.

    Raises
    ------
    BackupError
        If the backup is not whole or ``to`` is there.
    RunError
        If it is of a run that this version cannot go on with, or a process holds ``to``.
    """
    with lock_run(to), restored_folder(to) as folder:
        contents = unpack(path, folder)
        for name in RUN_FOLDERS:
            (folder / name).mkdir(exist_ok=True)
        _require_whole(path, folder, contents)
        store, number = RunStore(folder), contents.round or 0
        summary = store.summary()
        state = "interrupted" if summary.state == "running" else summary.state
        told = f"restored from a backup of {contents.made_at:%Y-%m-%d %H:%M} UTC, round {number}"
        warnings = (*summary.warnings, told)
        store.write_summary(summary.model_copy(update={"state": state, "warnings": warnings}))
        AuditLog.of_run(folder, store.study.name, summary.study_id).append(
            RunRestored(
                after_round=number, backup_at=contents.made_at, backup_version=contents.version
            )
        )
    return contents


def require_whole(store: RunStore, number: int) -> None:
    """Compare a round's files with themselves and with the round's manifest.

    Raises
    ------
    CheckpointError
        If one is damaged, absent or another round's.
    """
    path = store.manifest(number)
    for name, digest in read_manifest(path).files.items():
        file = path.with_name(Path(name).name)
        verify_tensor_file(file, _AnyHeader)
        if read_digest(file) != digest:
            raise CheckpointError(f"{file} is not the file that {path.name} names")


def _require_whole(path: Path, folder: Path, contents: Contents) -> None:
    try:
        store = RunStore(folder)
        for number in store.done_rounds():
            require_whole(store, number)
        done = store.latest_round()
    except (CheckpointError, RunError, OSError) as error:
        raise BackupError(
            f"the run in {path} cannot be gone on with: {error}\nit was made by feat-fed "
            f"{contents.version}: use that version, or another backup"
        ) from None
    if done is None or done != contents.round:
        raise BackupError(f"{path} lacks round {contents.round}, which it should hold")


def _put_rounds(
    backup: BackupWriter, store: RunStore, tell: Callable[[str], None]
) -> frozenset[int]:
    """Put in what is done and whole, the newest first; more rounds may be done meanwhile."""
    rounds: set[int] = set()
    for _ in range(_TRIES):
        seen = [each for each in store.done_rounds() if store.manifest(each).exists()]
        for number in reversed(seen):
            if _put_round(backup, store, number, tell):
                rounds.add(number)
        if rounds or store.done_rounds() == seen:
            break
    if not rounds:
        raise BackupError(f"{store.root} has no round that is done and whole yet")
    return frozenset(rounds)


def _put_round(
    backup: BackupWriter, store: RunStore, number: int, tell: Callable[[str], None]
) -> bool:
    """Put a round in, whole or not at all; return whether it is."""
    with ExitStack() as stack:
        opened: list[BinaryIO] = []
        try:
            require_whole(store, number)
            names = read_manifest(store.manifest(number)).files
            paths = [store.manifest(number), *(store.manifest(number).with_name(n) for n in names)]
            # An open file is there to its end, whatever the rotation removes.
            opened = [stack.enter_context(path.open("rb")) for path in paths]
        except (CheckpointError, OSError) as error:
            if store.manifest(number).exists():  # the rotation takes it before what it names
                tell(f"warning: round {number} is left out, for it is damaged: {error}")
            return False
        for path, file in zip(paths, opened, strict=True):
            backup.opened(f"checkpoints/{path.name}", file)
    return True


def _put_audit(backup: BackupWriter, folder: Path) -> None:
    """Put the log in; its head first, for lines may be written meanwhile."""
    backup.file(f"{AUDIT}/head.json", folder / "head.json")
    for path in segments(folder):
        backup.content(f"{AUDIT}/{path.name}", _whole_lines(path))


def _put_folder(backup: BackupWriter, root: Path, folder: Path) -> None:
    for path in _plain_files(folder, without=EvaluationFolder.of_run(root)):
        backup.file(path.relative_to(root).as_posix(), path)


def _plain_files(folder: Path, *, without: EvaluationFolder) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        skipped = path == without.live or path.is_relative_to(without.features)
        if path.is_file() and not path.is_symlink() and not hidden and not skipped:
            yield path


def _whole_lines(path: Path) -> bytes:
    """Return a file's content without a last line that is being written."""
    content = path.read_bytes()
    return content[: content.rfind(b"\n") + 1]
