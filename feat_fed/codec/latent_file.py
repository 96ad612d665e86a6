"""One clip's latent as a file: read by the window, verified by the frame.

A safetensors file: the moments, ``digests`` (views, F, 16) of every frame of each view (the
clip, and its mirror image where the codec needs it), and a seal over all of that but the
moments. The seal is checked when the file is found, a frame's digest when the frame is read, so
neither reads more than it must. Names hold the source's SHA-256 and a hash of the recipe,
and the file nothing else of the source.

Legend: F frames, C channels, h and w of the latent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from feat_fed.codec.encoded import MIRRORED, EncodedClip, raw_bytes
from feat_fed.codec.stats import LatentStats
from feat_fed.errors import DataError

SCHEMA = "2"
_DIGEST_BYTES = 16
_METADATA = "feat-fed"


@dataclass(frozen=True)
class Recipe:
    """All that decides a latent: the source's content, and what is done with it."""

    source_sha256: str
    steps: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hash of both."""
        text = json.dumps([SCHEMA, self.source_sha256, *self.steps])
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def file_name(self) -> str:
        """Names the latent's file, with the source's hash first."""
        return f"{self.source_sha256}-{self.digest[:32]}.safetensors"


@dataclass(frozen=True)
class StoredLatent:
    """One clip's latent on disk; float16 or bfloat16 moments, ``FChw``."""

    path: Path
    recipe_digest: str
    num_frames: int
    num_bytes: int
    stats: LatentStats

    def read(
        self, start_frame: int, stop_frame: int, *, mirrored: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return mean and log-variance (where the codec has one) of some frames, float32.

        Only those frames are read (the file is mapped into memory), and each is verified.

        Parameters
        ----------
        mirrored
            Of the clip's mirror image, where that was encoded.

        Raises
        ------
        DataError
            When the file has gone, or is damaged; a damaged one is removed.
        """
        prefix = MIRRORED if mirrored else ""
        try:
            with safe_open(self.path, framework="pt") as file:
                names = [name for name in _moments(prefix) if name in set(file.keys())]
                parts = [file.get_slice(name)[start_frame:stop_frame] for name in names]
                written = file.get_slice("digests")[int(mirrored), start_frame:stop_frame]
        except FileNotFoundError as error:
            raise DataError(
                f"{self.path} can no longer be read: it has gone, perhaps as its patient was "
                "erased; start again, without that patient"
            ) from error
        except (OSError, SafetensorError, IndexError) as error:
            raise DataError(
                f"{self.path} can no longer be read ({error}); start again, and it is encoded anew"
            ) from error
        view = _View(self.recipe_digest, prefix, start_frame)
        if not names or not torch.equal(
            written, view.digests(dict(zip(names, parts, strict=True)))
        ):
            self.path.unlink(missing_ok=True)
            raise DataError(
                f"{self.path} was damaged on disk and is removed; start again, and it is encoded "
                "anew"
            )
        mean, logvar = (*(part.float() for part in parts), None)[:2]
        return mean, logvar


def write_latent(path: Path, recipe: Recipe, encoded: EncodedClip) -> None:
    """Write a file that :func:`find_latent` takes for ``recipe``."""
    tensors, views = encoded.tensors, []
    for prefix in ("", MIRRORED):
        named = {name: tensors[name] for name in _moments(prefix) if name in tensors}
        if named:
            views.append(_View(recipe.digest, prefix, 0).digests(named))
    stats, digests = json.dumps(asdict(encoded.stats)), torch.stack(views)
    seal = _seal(recipe.digest, stats, digests, _layout(tensors))
    # One entry, as several come in any order: equal latents make equal files.
    _save({**tensors, "digests": digests}, path, {_METADATA: json.dumps([seal, stats])})


def find_latent(path: Path, recipe: Recipe) -> StoredLatent | None:
    """Return the file's latent if it is there, of this recipe, and its seal unbroken."""
    try:
        with safe_open(path, framework="pt") as file:
            seal, stats = json.loads((file.metadata() or {}).get(_METADATA, "[]"))
            names = set(file.keys()) - {"digests"}
            slices = {name: file.get_slice(name) for name in names}
            layout = {name: (each.get_dtype(), each.get_shape()) for name, each in slices.items()}
            digests = file.get_tensor("digests")
        if seal != _seal(recipe.digest, stats, digests, layout):
            return None
        fields = json.loads(stats)
        fields |= {name: tuple(fields[name]) for name in ("total", "square")}
        size = path.stat().st_size
    except (OSError, SafetensorError, ValueError):
        return None
    return StoredLatent(path, recipe.digest, digests.shape[1], size, LatentStats(**fields))


def _save(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Write safetensors' form, for which the library wants all bytes in memory.

    The length of the header (8 bytes, little endian), the header (JSON, filled up with spaces to
    8 bytes), the tensors' bytes one after the other (huggingface/safetensors, README, "Format").
    """
    header: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for name, each in tensors.items():
        start, end = end, end + each.nbytes
        dtype, shape = _TORCH_NAMES[each.dtype], list(each.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for each in tensors.values():
            file.write(raw_bytes(each))


@dataclass(frozen=True)
class _View:
    """Some frames of a clip or of its mirror image: what their digests are bound to."""

    recipe_digest: str
    prefix: str
    first_frame: int

    def digests(self, moments: Mapping[str, Tensor]) -> Tensor:
        """Return a digest of each frame's bits, (F, 16), uint8."""
        raw = [part.contiguous().view(torch.uint8).flatten(1).numpy() for part in moments.values()]
        kinds = [(name, str(each.dtype), *each.shape[1:]) for name, each in moments.items()]
        key = json.dumps([self.recipe_digest, self.prefix, kinds])
        rows = []
        for place in range(len(raw[0])):
            digest = hashlib.blake2b(
                f"{key} {self.first_frame + place}".encode(), digest_size=_DIGEST_BYTES
            )
            for part in raw:
                digest.update(part[place])
            rows.append(list(digest.digest()))
        return torch.tensor(rows, dtype=torch.uint8).reshape(-1, _DIGEST_BYTES)


def _moments(prefix: str) -> tuple[str, str]:
    return f"{prefix}mean", f"{prefix}logvar"


_TORCH_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.uint8: "U8"}


def _layout(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, list[int]]]:
    """Return dtypes and shapes as safetensors names them."""
    return {name: (_TORCH_NAMES[each.dtype], list(each.shape)) for name, each in tensors.items()}


def _seal(
    recipe_digest: str,
    stats: str,
    digests: Tensor,
    layout: Mapping[str, tuple[str, list[int]]],
) -> str:
    """Hash all of a file but the moments, which the digests stand for."""
    text = json.dumps([recipe_digest, stats, sorted(layout.items()), list(digests.shape)])
    seal = hashlib.sha256(text.encode())
    seal.update(digests.contiguous().numpy().tobytes())
    return seal.hexdigest()
