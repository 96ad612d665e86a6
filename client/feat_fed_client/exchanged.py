"""A round's weights on their way in and out of a site, in the study's forms.

::

    received/STUDY_ID/reference.safetensors    the server's weights that came last
    residual/STUDY_ID/after-0003.safetensors   feat_fed_client.residual_store
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from feat_fed.errors import CheckpointError, MissingBaseError, ProtocolError, StorageError
from feat_fed.federate import (
    decode,
    digest_of,
    encode,
    form_of,
    read_reference,
    reference_digest,
    whole_form,
    write_reference,
)
from feat_fed.model.state import TensorSpec, mismatches, state_schema
from feat_fed.protocol import Assignment
from feat_fed_client.residual_store import ResidualStore

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExchangedWeights:
    """What one assignment brings to the site's store and takes from it."""

    store: Path
    assignment: Assignment

    @property
    def held(self) -> str | None:
        """The digest of the server's weights that are kept here."""
        return reference_digest(self._reference)

    def receive(self, buckets: Sequence[bytes]) -> dict[str, Tensor]:
        """Return the weights that the task starts from, and keep them for the next difference.

        Raises
        ------
        MissingBaseError
            If what came is a difference from weights that are not here.
        ProtocolError
            If it is not what the assignment says.
        """
        told = self.assignment
        if told.base is None:
            weights = decode(buckets, whole_form(told.study.transfer), self._schema)
        else:
            weights = self._moved(buckets, told.base)
        if told.weights is None or told.weights == told.base:
            return weights
        if self._keep(weights) != told.weights:
            self._reference.unlink(missing_ok=True)
            if told.base is None:
                raise ProtocolError("other weights came than the server says")
            raise MissingBaseError("the difference leads to other weights than the server's")
        return weights

    def encode(self, trained: Mapping[str, Tensor], received: Mapping[str, Tensor]) -> list[bytes]:
        """Return the site's update in buckets; what its form leaves out is kept for the next one.

        Raises
        ------
        TrainingError
            If a weight has moved beyond all bounds.
        """
        told = self.assignment
        transfer, form = told.study.transfer, form_of(told.study.transfer, "up")
        if form is None:
            return encode(trained, None).buckets
        residuals = ResidualStore.of(self.store, study_id=told.study_id, model=told.study.model)
        current = residuals.current(before=told.round, taken=told.taken)
        encoded = encode(
            trained,
            form,
            base=received if transfer.up_is_delta else None,
            residual=None if current is None else residuals.read(current),
        )
        residuals.write(encoded.residual, after=told.round, current=current)
        return encoded.buckets

    def _moved(self, buckets: Sequence[bytes], base: str) -> dict[str, Tensor]:
        """Return the weights that are kept here, moved by the difference that came, if any."""
        told = self.assignment
        if self.held != base:
            raise MissingBaseError("a difference from weights that are not here")
        try:
            held = read_reference(self._reference)
        except CheckpointError as error:
            self._reference.unlink(missing_ok=True)
            raise MissingBaseError(str(error)) from None
        if mismatches(held, self._schema):
            raise MissingBaseError("the weights that are here are of another model")
        held = {name: held[name] for name in self._schema}
        if base == told.weights:
            if buckets:
                raise ProtocolError("weights came with a message that needs none")
            return held
        return decode(buckets, form_of(told.study.transfer, "down"), self._schema, base=held)

    def _keep(self, weights: Mapping[str, Tensor]) -> str:
        """Keep weights as the last that came and return their digest."""
        try:
            # Not durable: after a power cut they come whole again.
            return write_reference(self._reference, weights, durable=False)
        except StorageError as error:
            log.error("THE NEXT WEIGHTS HAVE TO COME WHOLE, free some disk: %s", error)
            return digest_of(weights)

    @property
    def _reference(self) -> Path:
        return self.store / "received" / self.assignment.study_id / "reference.safetensors"

    @property
    def _schema(self) -> Mapping[str, TensorSpec]:
        return state_schema(self.assignment.study.model)
