"""The bytes of weights that a study's rounds move, before any was moved."""

from __future__ import annotations

from feat_fed.config import StudyConfig
from feat_fed.federate import form_of, whole_form, wire_bytes
from feat_fed.model.state import state_schema
from feat_fed.protocol import Assignment


def round_bytes(study: StudyConfig) -> tuple[int, int]:
    """Return the bytes of weights that a round brings to a site and takes from it.

    Their headers, some hundredths of a per cent, are not counted. A site that has the weights
    already, because it is asked again, gets none.
    """
    schema = state_schema(study.model)
    down, up = (form_of(study.transfer, way) for way in ("down", "up"))
    return wire_bytes(schema, down), wire_bytes(schema, up)


def first_bytes(study: StudyConfig) -> int:
    """Return the bytes that a round brings to a site that does not have the weights before."""
    return wire_bytes(state_schema(study.model), whole_form(study.transfer))


def answer_bytes(assignment: Assignment) -> int:
    """Return the bytes of weights that answer an assignment."""
    return round_bytes(assignment.study)[1] if assignment.task == "train" else 0
