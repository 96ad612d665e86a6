"""Gaussian noise that nobody can compute who has not got its key.

The key seeds AES-256 in counter mode, whose stream is cut into 53-bit uniform numbers and turned
into normal ones by Box and Muller's transform in float64. Torch's own generators are no source
for differential privacy: on a CPU a Mersenne twister, which 64 bits seed and some thousand
outputs give away, and float32 numbers that end at 5.8 standard deviations; here they end at 8.6.

What remains of float arithmetic (the sum and its noise are float32 numbers, which lie on a grid)
is not defended against, as in Opacus without its secure mode; see Mironov, *On significance of the
least significant bits for differential privacy*, CCS 2012.
"""

from __future__ import annotations

import math
import os

import torch
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from torch import Tensor

KEY_BYTES = 32

_CHUNK = 2**16
"""Numbers at a time, an even one: 512 KiB of the stream."""
_WORD_BYTES = 8
_BLOCK_BYTES = 16


class GaussianNoise:
    """A stream of independent standard normal numbers.

    Parameters
    ----------
    key
        :data:`KEY_BYTES` random bytes, never of a study's seed; equal ones give equal numbers on
        one machine. None draws them from the operating system, and forgets them.
    """

    def __init__(self, key: bytes | None = None) -> None:
        cipher = Cipher(algorithms.AES256(key or os.urandom(KEY_BYTES)), modes.CTR(bytes(16)))
        self._stream = cipher.encryptor()
        self._zeros = bytes(_WORD_BYTES * _CHUNK)
        self._words = bytearray(_WORD_BYTES * _CHUNK + _BLOCK_BYTES - 1)

    @torch.no_grad()
    def add_to(self, tensor: Tensor, *, standard_deviation: float) -> None:
        """Add the stream's next numbers, times so much, to a contiguous float tensor in place."""
        flat = tensor.view(-1)
        for first in range(0, flat.numel(), _CHUNK):
            part = flat[first : first + _CHUNK]
            noise = self._next(part.numel()).mul_(standard_deviation)
            part.add_(noise.to(part.device, part.dtype))

    def _next(self, number: int) -> Tensor:
        """Return at most :data:`_CHUNK` numbers, float64."""
        even = number + number % 2
        size_bytes = _WORD_BYTES * even
        self._stream.update_into(memoryview(self._zeros)[:size_bytes], self._words)
        words = torch.frombuffer(self._words, dtype=torch.int64, count=even)
        # The upper 53 bits, in the middle of their intervals: never 0.
        uniform = (words >> 11).double().add_(2.0**52 + 0.5).mul_(2.0**-53)
        radius, angle = uniform.view(2, -1)
        radius.log_().mul_(-2.0).sqrt_()
        angle.mul_(2.0 * math.pi)
        return torch.cat([radius * angle.cos(), radius * angle.sin()])[:number]
