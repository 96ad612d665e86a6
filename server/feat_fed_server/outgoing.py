"""A round's weights on their way to the sites and back, in the study's forms.

::

    outgoing/reference-0002.safetensors   what the sites were sent after so many rounds
    outgoing/sites.json                   which of them each site was sent last

Where a difference is sent, what the sites start from (the reference) differs from the server's
weights by what the form has rounded, and the next difference, which is taken from the reference,
contains that: errors do not add up. All sites have the same reference: one that lacks the last
one is sent the new one whole. After a kill the same is made again from the files, so that an
update which a site has finished meanwhile still answers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from flwr.app import ArrayRecord, RecordDict
from pydantic import ValidationError
from torch import Tensor

from feat_fed.atomic import remove_parts, write_bytes_atomically
from feat_fed.config import TransferConfig
from feat_fed.config.base import StrictModel
from feat_fed.errors import CheckpointError, StorageError
from feat_fed.federate import (
    decode,
    digest_of,
    encode,
    form_of,
    read_reference,
    rebase,
    reference_digest,
    whole_form,
    write_reference,
)
from feat_fed.numbered import NumberedFiles
from feat_fed.protocol import Assignment, WeightsDigest
from feat_fed.report.records import RoundRecord
from feat_fed.wire import ARRAYS, to_records, weights_record

log = logging.getLogger(__name__)

_SITES = "sites.json"


class _Sites(StrictModel):
    """The content of ``sites.json``."""

    schema_version: Literal[1] = 1
    last: dict[str, WeightsDigest]


@dataclass(frozen=True)
class Parcel:
    """Weights as they are sent."""

    base: str | None
    """Digest of the weights from which they are the difference; None: of none, they are whole."""
    arrays: ArrayRecord | None
    """None: there is no difference."""
    size_bytes: int

    @classmethod
    def of(cls, buckets: Sequence[bytes], *, base: str | None) -> Parcel:
        """Wrap buckets."""
        return cls(base, weights_record(buckets), sum(map(len, buckets)))


class Outbox:
    """What sites were sent and have; one for a run's folder.

    Parameters
    ----------
    folder
        It need not exist.
    """

    def __init__(self, folder: Path, transfer: TransferConfig) -> None:
        self.transfer = transfer
        self._folder = folder
        self._references = NumberedFiles(folder, "reference")
        self._last: dict[str, str] = {}
        remove_parts(folder)
        try:
            content = (folder / _SITES).read_bytes()
            self._last = _Sites.model_validate_json(content).last
        except FileNotFoundError:
            pass
        except (OSError, ValidationError):
            log.warning("%s is damaged: sites are sent whole weights", folder / _SITES)

    def prepare(self, weights: Mapping[str, Tensor], *, rounds_done: int) -> Outgoing:
        """Make ready what is sent after so many rounds; after a kill, the same again."""
        form = form_of(self.transfer, "down")
        if form is None:
            return Outgoing(self, weights, weights, digest_of(weights))
        if not self.transfer.down_is_delta:
            reference = decode(encode(weights, form).buckets, form, weights)
            return Outgoing(self, weights, reference, digest_of(reference))
        found = self._newest(below=rounds_done)
        difference, reference = None, dict(weights)
        if found is not None:
            base, held = found
            buckets = encode(weights, form, base=held).buckets
            reference = decode(buckets, form, weights, base=held)
            difference = Parcel.of(buckets, base=base)
        digest = self._keep(reference, rounds_done, base=None if found is None else found[0])
        return Outgoing(self, weights, reference, digest, difference)

    def last_sent(self, site: str) -> str | None:
        """Return the digest of the weights that a site has, as far as is known."""
        return self._last.get(site)

    def note(self, last: Mapping[str, str | None]) -> None:
        """Note which weights sites were sent, or say that they have; none is written for None."""
        now = {site: digest for site, digest in {**self._last, **last}.items() if digest}
        if now == self._last:
            return
        self._last = now
        content = _Sites(last=now).model_dump_json().encode()
        try:
            self._folder.mkdir(exist_ok=True)
            write_bytes_atomically(self._folder / _SITES, content, durable=False)
        except OSError as error:
            log.warning("what sites have is not noted: %s", error.strerror)

    def _newest(self, *, below: int) -> tuple[str, dict[str, Tensor]] | None:
        """Return the last reference of fewer rounds, and its digest."""
        numbers = [number for number in self._references.numbers() if number < below]
        if not numbers:
            return None
        path = self._references.path(max(numbers))
        try:
            return reference_digest(path) or "", read_reference(path)
        except CheckpointError as error:
            log.warning("sites are sent whole weights: %s", error)
            return None

    def _keep(self, reference: Mapping[str, Tensor], number: int, *, base: str | None) -> str:
        """Write a reference, of which the next difference is taken; return its digest."""
        files = self._references
        digests = {each: reference_digest(files.path(each)) for each in files.numbers()}
        kept = [each for each, digest in digests.items() if base is not None and digest == base]
        files.remove(but=tuple(kept))
        try:
            return write_reference(files.path(number), reference, durable=False)
        except StorageError as error:
            log.error("THE NEXT ROUND'S WEIGHTS ARE SENT WHOLE, free some disk: %s", error)
            return digest_of(reference)


@dataclass
class Outgoing:
    """The weights of one task, for every site the same."""

    outbox: Outbox
    weights: Mapping[str, Tensor]
    """The server's own."""
    reference: Mapping[str, Tensor]
    """What every site starts from."""
    digest: str
    """Of the reference."""
    difference: Parcel | None = None
    """From the reference before."""

    def parcel(self, site: str, *, lacks: int = 0) -> Parcel:
        """Return what a site is sent: no weights that it has already, as far as is known.

        Parameters
        ----------
        lacks
            How often it has said that it lacks what it was thought to have: the second time it
            is sent all.
        """
        if lacks > 1:
            return self.whole
        has = self.outbox.last_sent(site)
        if has == self.digest:
            return Parcel(self.digest, None, 0)
        if self.difference is not None and has == self.difference.base:
            return self.difference
        return self.whole

    @cached_property
    def whole(self) -> Parcel:
        """All weights, for who has none."""
        form = whole_form(self.outbox.transfer)
        return Parcel.of(encode(self.reference, form).buckets, base=None)

    def content(self, assignment: Assignment, parcel: Parcel, *, taken: int | None) -> RecordDict:
        """Return a message's content; ``taken`` is of the site (:func:`last_taken`)."""
        told = {"weights": self.digest, "base": parcel.base, "taken": taken}
        records = to_records(assignment.model_copy(update=told))
        if parcel.arrays is not None:
            records[ARRAYS] = parcel.arrays
        return records

    def read_update(self, buckets: Sequence[bytes]) -> dict[str, Tensor]:
        """Return the server's weights with what a site's update changes.

        Raises
        ------
        ProtocolError
            If the buckets are not what the study's form makes of an update.
        """
        transfer = self.outbox.transfer
        form = form_of(transfer, "up")
        if transfer.up_is_delta:
            return decode(buckets, form, self.weights, base=self.weights)
        weights = decode(buckets, form, self.weights)
        if self.reference is self.weights:
            return weights
        return rebase(weights, received=self.reference, onto=self.weights)


def last_taken(before: Mapping[str, int], rounds: Iterable[RoundRecord]) -> dict[str, int]:
    """Return the last round whose aggregate has a site's update, by site.

    ``before`` is that of the rounds before; 0 stands for none.
    """
    taken = dict(before)
    for each in sorted(rounds, key=lambda each: each.round):
        good = [part for part in each.sites if part.status == "ok"]
        taken |= {part.site: part.answers_round or each.round for part in good}
    return taken
