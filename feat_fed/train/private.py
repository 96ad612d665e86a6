"""DP-SGD over patients (Abadi et al., arXiv 1607.00133, Algorithm 1): what a private step is.

Every patient in training takes part in a step by chance, by itself. The loss of a patient who does
is the mean over windows of its clips, timesteps and noises; its gradient is clipped as one vector.
To the sum over patients noise is added once, and what comes out, over the *expected* number of
patients, is a gradient for the optimiser. Nothing of a patient reaches the weights in another way:
the draws of one depend on no other, a gradient that is not finite counts as zero, a step that
nobody takes part in is a step.

One patient after the other goes through the network, since a per-patient gradient of FEAT is
exact only as the gradient of that patient's own loss: its blocks fold frames or pixels into the
batch's axis, where hooks like Opacus's ``GradSampleModule`` take each row for a clip of its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from feat_fed.config import ComputeConfig, PatientPrivacyConfig, TrainingConfig
from feat_fed.diffusion import Schedule
from feat_fed.errors import ConfigError
from feat_fed.privacy.clipping import ClippedSum
from feat_fed.privacy.noise import GaussianNoise
from feat_fed.privacy.sampling import poisson_sample
from feat_fed.train.batches import losses_of_patient
from feat_fed.train.engine import Engine, StepOutcome
from feat_fed.train.jobs import RoundJob, TrainingClips
from feat_fed.train.peers import Peers
from feat_fed.train.seeds import derive_seed

_log = logging.getLogger(__name__)


def check_private(
    privacy: PatientPrivacyConfig, training: TrainingConfig, compute: ComputeConfig
) -> None:
    """Refuse what a private step cannot be taken with.

    Raises
    ------
    ConfigError
        Where weights are shared out among processes, or the noise is not known.
    """
    if training.engine == "deepspeed" and compute.num_devices > 1 and compute.zero_stage == 3:
        raise ConfigError(
            "compute.zero_stage is 3, which leaves no process a whole weight, and the study's "
            "privacy.patient clips whole gradients; set compute.zero_stage: 2 in the site's file"
        )
    if privacy.noise_multiplier is None:
        raise ConfigError(
            "the study's privacy.patient.noise_multiplier is null: it was not found from "
            "privacy.patient.epsilon when the study began; start the study again with this release"
        )


def rows_per_patient(privacy: PatientPrivacyConfig) -> int:
    """Return the noised windows of a patient in a step."""
    return privacy.clips_per_patient * privacy.draws


class PrivateSteps:
    """Takes private steps, alone or as one of ``peers``, who share the patients out.

    Parameters
    ----------
    engine
        Opened without a limit of the gradient; it trains ``model``.
    alive
        Called as each part of a patient's loss begins.
    """

    def __init__(
        self,
        job: RoundJob,
        privacy: PatientPrivacyConfig,
        model: nn.Module,
        engine: Engine,
        train: TrainingClips,
        *,
        peers: Peers,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        check_private(privacy, job.training, job.compute)
        self._job, self._privacy, self._model, self._engine = job, privacy, model, engine
        self._train, self._patients = train, train.patients
        self._peers, self._alive = peers, alive
        self._weights = list(model.parameters())
        self._device = self._weights[0].device
        self._schedule = Schedule.linear(job.diffusion).to(self._device)

    @property
    def clips(self) -> float:
        """Noised windows that go through the network in a step, on average."""
        return self._expected * rows_per_patient(self._privacy)

    @property
    def _expected(self) -> float:
        """Patients in a step, on average."""
        return self._privacy.sample_rate * len(self._patients)

    def begin(self, step: int) -> Callable[[int], StepOutcome]:
        """Draw who takes part, and return what takes the step with so many windows at once.

        It may be called again where memory ran out, with fewer: that is no other draw.
        """
        chosen = self.drawn()

        def take(micro_batch: int) -> StepOutcome:
            total, loss = self.clipped_sum(chosen, step, micro_batch=micro_batch)
            if self._peers.rank == 0:
                self._add_noise(total)
            torch._foreach_div_(total, self._expected)
            return self._engine.step_with(total, loss=loss / self._expected)

        return take

    def drawn(self) -> list[str]:
        """Draw who takes part in a step; the first of the peers decides."""
        number, first = len(self._patients), self._peers.rank == 0
        chosen = set(poisson_sample(number, rate=self._privacy.sample_rate) if first else ())
        votes = self._peers.sum([float(each in chosen) for each in range(number)])
        return [each for each, vote in zip(self._patients, votes, strict=True) if vote]

    def clipped_sum(
        self, patients: Sequence[str], step: int, *, micro_batch: int
    ) -> tuple[list[Tensor], float]:
        """Return this process's share of the sum of clipped gradients, and of the losses.

        Without noise: no more of it may be kept than :meth:`begin` gives the engine.
        """
        total = ClippedSum(self._weights, clip_norm=self._privacy.clip_norm)
        share, losses, lost = self._peers.share(len(patients)), 0.0, 0
        for patient in patients[share.start : share.stop]:
            gradient, loss = self._gradient(patient, step, micro_batch)
            lost += not math.isfinite(total.add(gradient))
            del gradient  # before the next one is there
            losses += loss if math.isfinite(loss) else 0.0
        if lost:
            _log.warning("gradients that are not finite, and count as zero: %d", lost)
        return total.tensors, losses

    def _gradient(
        self, patient: str, step: int, micro_batch: int
    ) -> tuple[list[Tensor | None], float]:
        """Return the gradient of the patient's loss, and the loss."""
        seed = derive_seed("patient", self._job.seed, step, patient)
        z_WFCHW = self._train.windows_of(patient, self._privacy.clips_per_patient, seed)
        parts = losses_of_patient(
            z_WFCHW.to(self._device).float(),
            self._schedule,
            self._job,
            draws=self._privacy.draws,
            seed=seed,
            micro_batch=micro_batch,
            begun=self._alive,
        )
        gradient: list[Tensor | None] = [None] * len(self._weights)
        value = 0.0
        for loss_of in parts:
            loss = loss_of(self._model)
            # Not backward(): it would wake DeepSpeed's hooks, which exchange gradients.
            found = torch.autograd.grad(loss, self._weights, allow_unused=True)
            for place, each in enumerate(found):
                gradient[place] = _sum(gradient[place], each)
            value += float(loss.detach())
        return gradient, value

    def _add_noise(self, total: Sequence[Tensor]) -> None:
        assert self._privacy.noise_multiplier is not None
        deviation = self._privacy.noise_multiplier * self._privacy.clip_norm
        noise = GaussianNoise()
        for each in total:
            noise.add_to(each, standard_deviation=deviation)


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    """Add, None standing for zeros. Not in place: two weights may share a gradient's memory."""
    if first is None or second is None:
        return second if first is None else first
    return first + second
