"""Backups: tar files that any tool opens, whose last member lists the others with their SHA-256.

::

    study.yaml, checkpoints/round-0003.safetensors, ...   files, by their place below one folder
    backup.json                                           what it is, and all of these (Contents)

A backup is written beside its place and renamed, so it is whole or not there. Reading trusts
nothing: only plain files of plain names are taken, into a folder that is made for them.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import io
import os
import secrets
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, BinaryIO, Literal, cast

from pydantic import AwareDatetime, Field, StringConstraints, ValidationError

from feat_fed import __version__
from feat_fed.atomic import atomic_path, sync_folder
from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name
from feat_fed.errors import BackupError

_CONTENTS = "backup.json"
_LONGEST_CONTENTS_BYTES = 64 * 1024**2
_PART_BYTES = 1024**2
_PRIVATE = 0o600
_OTHER = "take another backup"
Kind = Literal["run", "federation"]


class Entry(StrictModel):
    """A file of a backup."""

    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: int = Field(ge=0)


class Contents(StrictModel):
    """``backup.json``: what a backup is of, and every file in it."""

    schema_version: Literal[1] = 1
    kind: Kind
    name: Name = Field(description="of the study, or of the federation's file")
    made_at: AwareDatetime
    version: Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z.+-]{1,32}$")] = Field(
        description="of the feat-fed that made it"
    )
    round: int | None = Field(None, description="the last that is done, of a run")
    private_keys: bool = Field(False, description="of a federation")
    files: dict[str, Entry]


class BackupWriter:
    """Takes files; :func:`new_backup` lends one."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._files: dict[str, Entry] = {}

    def file(self, name: str, path: Path) -> bool:
        """Put a file in as it is now; return whether it was still there."""
        try:
            opened = path.open("rb")
        except FileNotFoundError:
            return False
        with opened:
            self.opened(name, opened)
        return True

    def opened(self, name: str, opened: BinaryIO) -> None:
        """Put an open file in, which may have lost its name meanwhile."""
        about = os.fstat(opened.fileno())
        self._add(name, opened, size_bytes=about.st_size, mode=about.st_mode)

    def content(self, name: str, content: bytes, *, mode: int = 0o644) -> None:
        """Put bytes in as a file."""
        self._add(name, io.BytesIO(content), size_bytes=len(content), mode=mode)

    def close(self, kind: Kind, name: str, *, round_number: int | None, private_keys: bool) -> None:
        """Write what the backup is of, with which it is whole."""
        contents = Contents(
            kind=kind,
            name=name,
            made_at=dt.datetime.now(dt.UTC).replace(microsecond=0),
            version=__version__,
            round=round_number,
            private_keys=private_keys,
            files=self._files,
        )
        text = contents.model_dump_json(indent=1).encode()
        about = tarfile.TarInfo(_CONTENTS)
        about.size, about.mode = len(text), _PRIVATE
        self._tar.addfile(about, io.BytesIO(text))

    def _add(self, name: str, opened: BinaryIO, *, size_bytes: int, mode: int) -> None:
        about = tarfile.TarInfo(name)
        about.size, about.mode = size_bytes, mode & 0o777
        hashed = _Hashed(opened)
        self._tar.addfile(about, cast(BinaryIO, hashed))
        self._files[name] = Entry(sha256=hashed.digest, size_bytes=size_bytes)


class _Hashed:
    """Reads through to a file and hashes what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha = hashlib.sha256()

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._sha.update(content)
        return content

    @property
    def digest(self) -> str:
        return self._sha.hexdigest()


@contextlib.contextmanager
def new_backup(path: Path) -> Iterator[BackupWriter]:
    """Lend a writer; at the block's end the backup is there, readable for its owner alone.

    Raises
    ------
    BackupError
        If there is a file already, or it cannot be written.
    """
    if path.exists():
        raise BackupError(f"{path} exists; a backup replaces nothing: name another file")
    try:
        with atomic_path(path) as part:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
            with (
                os.fdopen(descriptor, "wb") as file,
                tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
            ):
                yield BackupWriter(tar)
    except OSError as error:
        raise BackupError(f"the backup {path} cannot be written: {error}") from error


def read_contents(path: Path) -> Contents:
    """Return what a backup says that it holds; :func:`unpack` compares that.

    Raises
    ------
    BackupError
        If it is none, or not whole.
    """
    with _opened(path) as tar:
        return _contents(path, tar, tar.getmembers())


def unpack(path: Path, folder: Path | None) -> Contents:
    """Compare every file of a backup with its SHA-256, and write it below ``folder``, if given.

    Raises
    ------
    BackupError
        If the backup is not whole, or holds anything that it should not.
    """
    with _opened(path) as tar:
        members = tar.getmembers()
        contents = _contents(path, tar, members)
        if sorted(each.name for each in members[:-1]) != sorted(contents.files):
            raise BackupError(
                f"{path} does not hold the files that its {_CONTENTS} lists; {_OTHER}"
            )
        for member in members[:-1]:
            if not _is_plain(member):
                raise BackupError(f"{path} holds {member.name!r}, which no backup has; {_OTHER}")
            found = tar.extractfile(member)
            assert found is not None  # a plain file
            target = folder / member.name if folder else None
            if _written(cast(BinaryIO, found), target, member.mode) != contents.files[member.name]:
                raise BackupError(f"{member.name} in {path} is damaged; {_OTHER}")
    return contents


@contextlib.contextmanager
def restored_folder(to: Path) -> Iterator[Path]:
    """Lend a folder beside ``to``, which becomes ``to`` at the block's end.

    Raises
    ------
    BackupError
        If ``to`` holds anything, or cannot be made.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise BackupError(f"{to} exists; a restore replaces nothing: name a folder that does not")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        part = to.with_name(f".{to.name}.restoring-{secrets.token_hex(4)}")
        part.mkdir()
        try:
            yield part
            part.rename(to)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
        sync_folder(to.parent)
    except OSError as error:
        raise BackupError(f"{to} cannot be restored: {error}") from error


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    if not path.is_file():
        raise BackupError(f"there is no backup {path}")
    try:
        with tarfile.open(path, mode="r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise BackupError(f"{path} is no backup, or not whole ({error}); {_OTHER}") from None


def _contents(path: Path, tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> Contents:
    last = members[-1] if members else None
    if last is None or last.name != _CONTENTS or last.size > _LONGEST_CONTENTS_BYTES:
        raise BackupError(f"{path} is no backup of feat-fed, or not whole; {_OTHER}")
    found = tar.extractfile(last)
    try:
        return Contents.model_validate_json(found.read() if found else b"")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise BackupError(
            f"{path} is of a feat-fed that this one cannot read ({_CONTENTS}: {where}: "
            f"{first['msg']}); restore it with the version that made it"
        ) from None


def _is_plain(member: tarfile.TarInfo) -> bool:
    parts = PurePosixPath(member.name).parts
    named = all(part.isprintable() and not part.startswith((".", "/")) for part in parts)
    is_file = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
    return is_file and named and "/".join(parts) == member.name


def _written(found: BinaryIO, target: Path | None, mode: int) -> Entry:
    """Read a member to its end, into a new file if one is given; return what it was."""
    sha, size_bytes = hashlib.sha256(), 0
    with contextlib.ExitStack() as stack:
        file = None
        if target is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            # Nobody else gets to write what is restored, whatever the backup says.
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode & 0o755)
            file = stack.enter_context(os.fdopen(descriptor, "wb"))
        while part := found.read(_PART_BYTES):
            sha.update(part)
            size_bytes += len(part)
            if file is not None:
                file.write(part)
        if file is not None:
            file.flush()
            os.fsync(file.fileno())
    return Entry(sha256=sha.hexdigest(), size_bytes=size_bytes)
