"""How many generated clips a site has compared with its own lately, against what it allows.

Counted in ``compared.json`` in the site's store, over all studies: each question tells whoever asks
something of the site's patients.
"""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import Field, ValidationError

from feat_fed.atomic import remove_parts, write_bytes_atomically
from feat_fed.config import ReleaseConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import StorageError
from feat_fed_client.limits import DeclinedError

FILE = "compared.json"
DAYS = 30


class _Question(StrictModel):
    at: float = Field(default_factory=time.time, description="Unix time")
    clips: int = Field(ge=1)
    digest: str


class _File(StrictModel):
    questions: tuple[_Question, ...] = ()


def take_clips(store: Path, clips: int, digest: str, policy: ReleaseConfig) -> None:
    """Count a question's clips before the first of them is looked for; once, if it comes again.

    Raises
    ------
    DeclinedError
        If they are more than the site still allows.
    StorageError
        If they cannot be counted, or what was counted before cannot be read.
    """
    since = time.time() - DAYS * 86400
    questions = [each for each in _read(store) if each.at > since]
    if digest in {each.digest for each in questions}:
        return
    compared = sum(each.clips for each in questions)
    if compared + clips > policy.max_clips:
        raise DeclinedError(
            "release",
            f"{clips} generated clips are to be compared after {compared} in the last {DAYS} "
            f"days, and release.max_clips allows {policy.max_clips}",
        )
    content = _File(questions=(*questions, _Question(clips=clips, digest=digest))).model_dump_json()
    try:
        store.mkdir(parents=True, exist_ok=True)
        remove_parts(store, FILE)
        write_bytes_atomically(store / FILE, content.encode())
    except OSError as error:
        raise StorageError(f"{store / FILE} cannot be written: {error}") from error


def _read(store: Path) -> tuple[_Question, ...]:
    path = store / FILE
    try:
        return _File.model_validate_json(path.read_bytes()).questions
    except FileNotFoundError:
        return ()
    except (OSError, ValidationError) as error:
        raise StorageError(
            f"{path} cannot be read ({type(error).__name__}), so that nothing is compared: put it "
            "back from a backup, or remove it, and the count begins anew"
        ) from error
