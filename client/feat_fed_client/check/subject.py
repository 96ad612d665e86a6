"""The site that is checked, and what several checks share: each is found out once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from feat_fed.codec import VideoCodec, build_codec
from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.errors import ConfigError
from feat_fed.federate import wire_bytes
from feat_fed.model.state import state_schema
from feat_fed.protocol import Versions
from feat_fed_client.check.clips import KnownClips, read_known_clips
from feat_fed_client.check.measure import StepTrial, Trouble, try_step
from feat_fed_client.check.way import Way, measure_way
from feat_fed_client.round_bytes import first_bytes, round_bytes


@dataclass(frozen=True)
class Subject:
    """What is asked about.

    Parameters
    ----------
    study
        None: nobody has said, and no round has come yet.
    last_versions
        Of the server, when it last sent a round.
    offline, quick
        Leave out what needs the network; what takes more than seconds.
    """

    site: SiteConfig
    study: StudyConfig | None = None
    last_versions: Versions | None = None
    offline: bool = False
    quick: bool = False

    @property
    def weights_bytes(self) -> int:
        """Of the study's model, as float32."""
        return wire_bytes(state_schema(self.study.model), None) if self.study else 0

    @property
    def round_bytes(self) -> tuple[int, int]:
        """Of a round's weights, in the study's forms: to the site and from it."""
        return round_bytes(self.study) if self.study else (0, 0)

    @property
    def first_bytes(self) -> int:
        """Of a round's weights to a site that does not have those before, as in its first."""
        return first_bytes(self.study) if self.study else 0

    @cached_property
    def clips(self) -> KnownClips | None:
        """What the manifest knows; None where there is no manifest.

        Raises
        ------
        DataError
            If the manifest cannot be used.
        """
        return read_known_clips(self.site, self.study)

    @cached_property
    def codec(self) -> VideoCodec | ConfigError:
        """The study's codec, or why it cannot be had."""
        assert self.study is not None
        try:
            return build_codec(self.study.codec, weights=self.site.codec_weights)
        except ConfigError as error:
            return error

    @cached_property
    def way(self) -> Way:
        """What the way to the server carries."""
        assert self.site.server is not None
        return measure_way(self.site.server, quick=self.quick)

    @cached_property
    def versions(self) -> Versions | None:
        """The server's, as it says now, or said with the last round."""
        if not self.offline and self.site.server is not None and self.way.answer:
            return self.way.answer.versions
        return self.last_versions

    @cached_property
    def step(self) -> StepTrial | Trouble:
        """What some steps of the study's training took on this machine."""
        assert self.study is not None
        return try_step(self.site, self.study, patients=self._patients_in_a_step())

    def _patients_in_a_step(self) -> int:
        """Return about how many patients take part in a private step, as far as is known."""
        assert self.study is not None
        privacy = self.study.privacy.patient
        if privacy is None or self.clips is None:
            return 1
        return max(1, round(privacy.sample_rate * self.clips.num_training_patients))

    @property
    def latents(self) -> Path:
        """The site's folder of latents."""
        return self.site.store / "latents"
