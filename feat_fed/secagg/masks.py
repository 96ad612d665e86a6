"""Masks: streams of pseudo-random integers modulo 2^32 that are added to values and cancel out.

The generator is AES-256 in counter mode under the seed, its counter at the block of the first
value wanted, so that any stretch of a stream can be had by itself and weights can be masked
bucket by bucket.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from feat_fed.secagg.quantise import Ring

SEED_BYTES = 32

_PER_BLOCK = 4
"""Values of 32 bits in a block of AES."""
_CHUNK = 64 * 1024
"""Values that are masked at once: with their key stream they stay in a core's cache."""
_ZEROS = memoryview(bytes(4 * _CHUNK))


@dataclass(frozen=True)
class Masks:
    """Streams to add to values and to subtract from them, one of each seed."""

    added: tuple[bytes, ...] = field(repr=False)
    subtracted: tuple[bytes, ...] = field(repr=False)

    def apply(self, values: Ring, first: int) -> None:
        """Add and subtract the streams, in place.

        Parameters
        ----------
        values
            Contiguous; of any shape.
        first
            Place of the first value in the streams (:func:`places`).
        """
        if not values.flags.c_contiguous:
            raise ValueError("values that are not contiguous cannot be masked in place")
        flat = values.reshape(-1)
        nonce = (first // _PER_BLOCK).to_bytes(16, "big")
        streams = [
            (Cipher(algorithms.AES(seed), modes.CTR(nonce)).encryptor(), combine)
            for seeds, combine in ((self.added, np.add), (self.subtracted, np.subtract))
            for seed in seeds
        ]
        drawn = np.empty(_CHUNK, dtype="<u4")
        # A stream begins with a block, the values perhaps within it.
        start, skip = 0, first % _PER_BLOCK
        while start < flat.size:
            stretch = drawn[: skip + flat.size - start]
            chunk = flat[start : start + stretch.size - skip]
            for stream, combine in streams:
                stream.update_into(_ZEROS[: stretch.nbytes], stretch.view(np.uint8).data)
                combine(chunk, stretch[skip:], out=chunk)
            start, skip = start + chunk.size, 0


def places(sizes: Mapping[str, int], *, counters: int = 0) -> dict[str, int]:
    """Return where each tensor's values begin in the streams, in name order after the counters."""
    starts, start = {}, counters
    for name in sorted(sizes):
        starts[name] = start
        start += sizes[name]
    return starts
