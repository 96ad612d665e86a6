"""What a run's ``release/`` holds while the sites are asked, and after.

::

    release/clips.safetensors    latents of the generated clips that the sites compare
    release/asking.json          what is asked of whom, and what came so far
    release/release.json         the decision (feat_fed.memorisation.Release)
    release/samples/             clips that were let through
    release/model/               the model as a pipeline's folder, where it is released
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from torch import Tensor

from feat_fed.atomic import write_bytes_atomically
from feat_fed.config import SamplerConfig
from feat_fed.config.base import StrictModel
from feat_fed.config.study import Name
from feat_fed.errors import CheckpointError, RunError
from feat_fed.memorisation import MAX_CLIPS, Release, SiteAnswer
from feat_fed.report.run_store import RunStore
from feat_fed.tensor_file import read_digest, read_tensor_file, write_tensor_file

_LATENTS = "z"


class ClipsHeader(StrictModel):
    """Of which weights the clips are, and how they were drawn: clip i has seed ``seed + i``."""

    study_id: str
    round: int = Field(ge=1)
    weights_sha256: str = Field(description="that their file holds of its content")
    sampler: SamplerConfig

    @classmethod
    def of(cls, store: RunStore, round_number: int, sampler: SamplerConfig) -> ClipsHeader:
        """Return that of clips that are drawn from a round's averaged weights.

        Raises
        ------
        CheckpointError
            If the weights' file is absent or damaged.
        """
        return cls(
            study_id=store.summary().study_id,
            round=round_number,
            weights_sha256=read_digest(store.weights_file("ema", round_number)),
            sampler=sampler,
        )


class AskingState(StrictModel):
    """Where the question stands."""

    state: Literal["asking", "complete", "failed"] = "asking"
    message: str = ""
    clips_sha256: str
    clips: int = Field(ge=1, le=MAX_CLIPS)
    round: int = Field(ge=1)
    until: float = Field(description="Unix time after which nobody is waited for")
    sites: tuple[Name, ...] = Field(description="that took part in the study's rounds")
    answers: dict[Name, SiteAnswer] = Field(default_factory=dict)

    def settled(self) -> frozenset[str]:
        """Return whose answers will be no other."""
        return frozenset(site for site, each in self.answers.items() if each.status == "answered")


class ReleaseFolder:
    """A run's; files are replaced whole."""

    def __init__(self, run: Path) -> None:
        self.root = run / "release"
        self.latents = self.root / "clips.safetensors"
        self.decision = self.root / "release.json"
        self.samples = self.root / "samples"
        self.model = self.root / "model"
        self._asking = self.root / "asking.json"

    def write_latents(self, z_NFChw: Tensor, header: ClipsHeader) -> None:
        """Write generated latents.

        Raises
        ------
        StorageError
            If that cannot be done.
        """
        write_tensor_file(self.latents, {_LATENTS: z_NFChw}, header)

    def latents_of(self, header: ClipsHeader) -> Tensor | None:
        """Return the latents that are there, if they were drawn like this."""
        try:
            found, tensors = read_tensor_file(self.latents, ClipsHeader)
        except CheckpointError:
            return None
        return tensors[_LATENTS] if found == header else None

    def read_latents(self) -> tuple[Tensor, str]:
        """Return the latents and their file's digest.

        Raises
        ------
        CheckpointError
            If the file is absent or damaged.
        """
        _, tensors = read_tensor_file(self.latents, ClipsHeader)
        return tensors[_LATENTS], read_digest(self.latents)

    def asking(self) -> AskingState | None:
        """Return where the question stands; None where none was begun.

        Raises
        ------
        RunError
            If that cannot be read.
        """
        try:
            return AskingState.model_validate_json(self._asking.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError):
            raise RunError(
                f"{self._asking} is damaged; remove it, and all sites are asked again"
            ) from None

    def answered(self, header: ClipsHeader) -> dict[str, SiteAnswer]:
        """Return what sites have told before of clips that were drawn like this.

        Raises
        ------
        RunError
            If that cannot be read.
        """
        state = self.asking()
        if state is None or self.latents_of(header) is None:
            return {}
        if read_digest(self.latents) != state.clips_sha256:
            return {}
        return {site: state.answers[site] for site in state.settled()}

    def write_asking(self, state: AskingState) -> None:
        """Replace where the question stands.

        Raises
        ------
        RunError
            If that cannot be written.
        """
        self._write(self._asking, state)

    def write_decision(self, release: Release) -> None:
        """Replace the decision.

        Raises
        ------
        RunError
            If that cannot be written.
        """
        self._write(self.decision, release)

    def _write(self, path: Path, content: StrictModel) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(path, content.model_dump_json(indent=1).encode())
        except OSError as error:
            raise RunError(f"{path} cannot be written: {error}; free some disk") from error
