"""Seeds for every place that draws numbers, from one seed of the study."""

from __future__ import annotations

import hashlib
import json


def derive_seed(*parts: str | int) -> int:
    """Return a seed that depends on all the parts, their order and their types.

    The first 63 bits of the SHA-256 of the parts as a JSON list, so that the value is the
    same on every machine and Python version, and no two lists of parts are written alike.
    A round at a site is seeded by ``derive_seed(study_seed, site_name, round_number)``.

    Returns
    -------
    int
        In [0, 2^63): fits ``torch.Generator.manual_seed`` and a signed 64-bit field.
    """
    text = json.dumps(parts, ensure_ascii=True, separators=(",", ":"))
    return int.from_bytes(hashlib.sha256(text.encode("ascii")).digest()[:8], "big") >> 1
