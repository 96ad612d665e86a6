"""Protocol messages as Flower records, and Flower's environment.

With :mod:`feat_fed.parts` and :mod:`feat_fed.inflating` what both roles need of Flower.
"""

from __future__ import annotations

import hashlib
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from flwr.cli.build import build_fab_from_files
from pydantic import BaseModel

from feat_fed.bundle import bundle_files
from feat_fed.errors import ProtocolError
from feat_fed.protocol import Task, parse_header

HeaderT = TypeVar("HeaderT", bound=BaseModel)

ARRAYS = "arrays"
"""The record of a message's weights."""
_HEADER = "config"
_JSON = "feat-fed"
_STYPE = "feat-fed.safetensors"
_CARRIED = "_feat_fed_carried"


# glibc gives large blocks back to the kernel at once, and takes a page fault for each page of them
# in the next step or round; what one thread has freed it does not give to another. Faults were half
# of the time of putting 632 MB into a message, and 40 to 135 ms of a training step of 550 ms.
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_ARENA_MAX": "1",
    # Large pages (glibc 2.35): a tenth of the processor time of a round of 632 MB was faults.
    "GLIBC_TUNABLES": ":".join(
        each for each in (os.environ.get("GLIBC_TUNABLES"), "glibc.malloc.hugetlb=1") if each
    ),
}
"""Environment of the processes through which weights go: memory is kept and used again."""


def flower_environment(home: Path) -> dict[str, str]:
    """Environment of every Flower or Ray process that we start.

    ``home`` holds Flower's own files; a folder for each process keeps them apart.
    Telemetry, update checks and installation of packages at run time are off.
    """
    return {
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        # Flower starts its own commands by name, also where the environment is not activated.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def bundle() -> tuple[bytes, str]:
    """Return the application bundle and its SHA-256; the same wherever this version is."""
    with warnings.catch_warnings():
        # Flower 1.41 asks pathspec 1 for a pattern style that it is about to drop.
        warnings.filterwarnings("ignore", message="GitWildMatchPattern")
        content, _ = build_fab_from_files(bundle_files())
    return content, hashlib.sha256(content).hexdigest()


def message_type(task: Task) -> str:
    """Return the type of Flower's messages that ask for a task."""
    return task if task in ("train", "evaluate") else f"query.{task}"


def weights_record(buckets: Sequence[bytes]) -> ArrayRecord:
    """Wrap buckets of weights, bytes untouched."""
    return ArrayRecord(
        {
            f"{index:04d}": Array(dtype="bytes", shape=(len(data),), stype=_STYPE, data=data)
            for index, data in enumerate(buckets)
        }
    )


def header_record(header: BaseModel) -> ConfigRecord:
    """Wrap a header."""
    return ConfigRecord({_JSON: header.model_dump_json()})


def to_records(header: BaseModel, buckets: Sequence[bytes] = ()) -> RecordDict:
    """Make the content of a Flower message."""
    records = RecordDict({_HEADER: header_record(header)})
    if buckets:
        records[ARRAYS] = weights_record(buckets)
    return records


def with_header(content: RecordDict, header: BaseModel) -> RecordDict:
    """Return the content of a message under another header; the weights are not copied."""
    return RecordDict({**content, _HEADER: header_record(header)})


def from_records(content: RecordDict, model: type[HeaderT]) -> tuple[HeaderT, list[bytes]]:
    """Read the content of a Flower message.

    Raises
    ------
    ProtocolError
        If a record is missing or of another form than :func:`to_records` makes.
    """
    if content.keys() - {_HEADER, ARRAYS}:
        raise ProtocolError("a message with records beside its header and its weights")
    header = content.get(_HEADER)
    text = header.get(_JSON) if isinstance(header, ConfigRecord) else None
    if not isinstance(text, str):
        raise ProtocolError("a message without a header")
    return parse_header(model, text), _buckets(content)


def digest_of_buckets(buckets: Iterable[bytes]) -> str:
    """Return the SHA-256 of buckets, one after the other."""
    digest = hashlib.sha256()
    for bucket in buckets:
        digest.update(bucket)
    return digest.hexdigest()


class Carried(NamedTuple):
    """Whatever a message brings as weights."""

    bytes: int
    sha256: str | None
    """Of all buckets, one after the other; None without any."""


def carried(content: RecordDict) -> Carried:
    """Measure what a message carries; nothing of it is checked, and nothing measured twice.

    Who changes a message's weights after this makes another message of them.
    """
    known = vars(content).get(_CARRIED)
    if not isinstance(known, Carried):
        records = (each for each in content.values() if isinstance(each, ArrayRecord))
        buckets = [array.data for record in records for _, array in sorted(record.items())]
        digest = digest_of_buckets(buckets) if buckets else None
        known = vars(content)[_CARRIED] = Carried(sum(map(len, buckets)), digest)
    return known


def _buckets(content: RecordDict) -> list[bytes]:
    if ARRAYS not in content:
        return []
    arrays = content[ARRAYS]
    if not isinstance(arrays, ArrayRecord):
        raise ProtocolError("a message whose weights are no arrays")
    if any(each.stype != _STYPE for each in arrays.values()):
        raise ProtocolError("a message whose weights are of another serialisation")
    return [arrays[key].data for key in sorted(arrays)]
