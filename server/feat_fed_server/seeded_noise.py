"""The noise of a central round, which a short secret determines.

A round that is aggregated again has to release the same numbers, in whatever groups its tensors are
taken: each tensor has a key of its own, of the secret and a label.
"""

from __future__ import annotations

import hashlib
import secrets

import torch
from torch import Tensor

from feat_fed.privacy.noise import KEY_BYTES, GaussianNoise


def new_seed() -> str:
    """Return a new secret of 256 bits from the operating system, in hexadecimal digits."""
    return secrets.token_hex(KEY_BYTES)


class SeededNoise:
    """Standard normal numbers, by a secret and a label.

    Parameters
    ----------
    about
        All that says what is done with them. The same numbers, put to two uses, would cancel out.
    """

    def __init__(self, seed: str, about: str = "") -> None:
        self._seed = hashlib.sha256(bytes.fromhex(seed) + about.encode()).digest()

    @property
    def name(self) -> str:
        """Tells one secret from another and gives neither away: 32 hexadecimal digits."""
        return self._key("name").hex()[:32]

    def normal(self, label: str, shape: tuple[int, ...]) -> Tensor:
        """Return independent standard normal numbers of float64; the same for the same label.

        Numbers of different labels are independent.
        """
        found = torch.zeros(shape, dtype=torch.float64)
        GaussianNoise(self._key(label)).add_to(found, standard_deviation=1.0)
        return found

    def _key(self, label: str) -> bytes:
        return hashlib.sha256(self._seed + label.encode()).digest()
