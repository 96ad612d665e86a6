"""Gaussian noise that a short secret determines, and that nobody tells from chance without it.

The secret's AES-256 keystream in counter mode gives uniform numbers of 53 bits, and Box and
Muller's transform (Annals of Mathematical Statistics 29, 1958) makes normal ones of them. The
generators of torch and numpy take seeds of 64 or 128 bits and are not made to withstand guessing.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterator

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

_SEED_BYTES = 32
_CHUNK_PAIRS = 2**19
_WORD_BYTES = 8
_MANTISSA = 53


def new_seed() -> str:
    """Return a new secret of 256 bits from the operating system, in hexadecimal digits."""
    return secrets.token_hex(_SEED_BYTES)


class SeededNoise:
    """Standard normal numbers, by a secret and a label."""

    def __init__(self, seed: str) -> None:
        self._seed = bytes.fromhex(seed)

    @property
    def name(self) -> str:
        """Tells one secret from another and gives neither away: 32 hexadecimal digits."""
        return self._key("name").hex()[:32]

    def normal(self, label: str, shape: tuple[int, ...]) -> Tensor:
        """Return independent standard normal numbers of float64; the same for the same label.

        Numbers of different labels are independent.
        """
        found = torch.empty(math.prod(shape), dtype=torch.float64)
        for at, chunk in self._chunks(label, found.numel()):
            found[at : at + chunk.numel()] = chunk
        return found.reshape(shape)

    def _chunks(self, label: str, count: int) -> Iterator[tuple[int, Tensor]]:
        stream = Cipher(algorithms.AES(self._key(label)), modes.CTR(bytes(16))).encryptor()
        for at in range(0, count, 2 * _CHUNK_PAIRS):
            pairs = min(_CHUNK_PAIRS, (count - at + 1) // 2)
            words = bytearray(stream.update(bytes(2 * pairs * _WORD_BYTES)))
            uniform = torch.frombuffer(words, dtype=torch.int64) & (2**_MANTISSA - 1)
            radius = (uniform[:pairs] + 1).double().mul_(2.0**-_MANTISSA)  # never 0
            angle = uniform[pairs:].double().mul_(2 * math.pi * 2.0**-_MANTISSA)
            radius = radius.log_().mul_(-2).sqrt_()
            both = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)])
            yield at, both[: count - at]

    def _key(self, label: str) -> bytes:
        return hashlib.sha256(self._seed + label.encode()).digest()
