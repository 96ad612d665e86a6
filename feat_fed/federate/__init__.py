"""What is done to weights between the sites and the global model."""

from feat_fed.federate.buckets import pack, unpack
from feat_fed.federate.encoding import (
    Encoded,
    decode,
    encode,
    form_of,
    rebase,
    whole_form,
    wire_bytes,
)
from feat_fed.federate.reference import (
    digest_of,
    read_reference,
    reference_digest,
    write_reference,
)

__all__ = [
    "Encoded",
    "decode",
    "digest_of",
    "encode",
    "form_of",
    "pack",
    "read_reference",
    "rebase",
    "reference_digest",
    "unpack",
    "whole_form",
    "wire_bytes",
    "write_reference",
]
