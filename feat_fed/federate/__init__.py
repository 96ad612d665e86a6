"""What is done to weights between the sites and the global model."""

from feat_fed.federate.buckets import pack, unpack
from feat_fed.federate.encoding import (
    Encoded,
    decode,
    digest_of,
    encode,
    form_of,
    rebase,
    wire_bytes,
)

__all__ = [
    "Encoded",
    "decode",
    "digest_of",
    "encode",
    "form_of",
    "pack",
    "rebase",
    "unpack",
    "wire_bytes",
]
