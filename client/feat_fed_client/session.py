"""One assignment at a site: find the clips, encode them once, train, report.

A round that is asked for again goes on from its checkpoint, or is answered from the spool.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from torch import Tensor

from feat_fed.codec import LatentWindows, build_codec, finish_erasing, prepare_at_site
from feat_fed.config import SiteConfig
from feat_fed.data import Manifest, scan, split_site
from feat_fed.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    MemoryShortError,
    StalledError,
    StorageError,
    TrainingError,
)
from feat_fed.federate import digest_of
from feat_fed.protocol import Assignment, EndedBy, Report
from feat_fed.report.live import LIVE_FILE, SiteLive
from feat_fed.train import (
    MidRound,
    RoundHooks,
    RoundJob,
    StepProgress,
    derive_seed,
    evaluate_round,
    resolve_device,
    train_round,
)
from feat_fed.train.mid_round import Checkpoints, MidRoundFile, job_digest
from feat_fed.train.private import check_private
from feat_fed_client.budget import PrivacyBudget, require_protections
from feat_fed_client.events import RoundEvents, round_events
from feat_fed_client.label import label_of
from feat_fed_client.limits import SiteLimits
from feat_fed_client.niceness import be_nice
from feat_fed_client.optimiser_store import OptimiserStore
from feat_fed_client.round_files import tidy, under_way
from feat_fed_client.spool import Spool
from feat_fed_client.supervision import Sign, Witness

log = logging.getLogger(__name__)

_OF_THE_MACHINE = (
    CheckpointError,
    ConfigError,
    DataError,
    DeviceError,
    MemoryShortError,
    StalledError,
)
"""Errors of a training that say nothing of its numbers."""

_LIVE_EVERY_SEC = 0.5
_WAIT_SEC = 1.0


@dataclass(frozen=True)
class SiteClips:
    """What a study trains on and what it scores with; patients are in one of the two."""

    train: LatentWindows
    heldout: LatentWindows | None

    @property
    def digest(self) -> str:
        """Of both."""
        of_heldout = self.heldout.digest if self.heldout else ""
        return sha256(f"{self.train.digest} {of_heldout}".encode()).hexdigest()


class SiteSession:
    """Do one assignment with the site's own data and devices, within its own limits.

    Parameters
    ----------
    limits
        Those of the site's file unless given.
    witness
        Is told again and again that the work goes on.
    train_until
        Time by ``time.monotonic`` at which training ends, for its result would come too late.
    """

    def __init__(
        self,
        site: SiteConfig,
        limits: SiteLimits | None = None,
        *,
        witness: Witness = lambda _: None,
        train_until: float = math.inf,
    ) -> None:
        self._site = site
        self._train_until = train_until
        self._limits = limits or SiteLimits.of(site)
        self._witness = witness
        self._told_at = 0.0
        site.store.mkdir(parents=True, exist_ok=True)

    @property
    def name(self) -> str:
        """The site's."""
        return self._site.name

    @property
    def store(self) -> Path:
        """The site's folder."""
        return self._site.store

    def wait_until_open(self, round_number: int, *, tell: Callable[[str], None]) -> None:
        """Wait until the site's hours and its pause allow training; tell why, once a reason."""
        told = ""
        while closed := self._limits.closed():
            if str(closed) != told:
                told = str(closed)
                tell(told)
            self._tell(SiteLive(phase="waiting", round=round_number))
            time.sleep(_WAIT_SEC)

    def run(
        self, assignment: Assignment, weights: Mapping[str, Tensor]
    ) -> tuple[Report, dict[str, Tensor]]:
        """Train or score; return the report and, after training, the site's weights.

        Raises
        ------
        ConfigError
            If the site's configuration does not go with the study's privacy.
        DeclinedError
            If the site's limits or its demands on privacy forbid the round, or no step of it
            could be taken before its hours ended or it was paused.
        TrainingError
            If the round's time was up before its training began, among others.
        """
        be_nice(self._site.compute.niceness)
        require_protections(self._site, assignment.study)
        tidy(self._site.store, study_id=assignment.study_id)
        spool = Spool.of(self._site.store, study_id=assignment.study_id)
        spool.settle(assignment)
        job = self._job(assignment, weights)
        # What came has the digest that the assignment says, where it says one.
        asked = job_digest(job, weights=assignment.weights or digest_of(weights))
        # What is done already needs none of what the limits keep back.
        if assignment.task == "train" and (done := spool.find(asked)):
            log.info("round %d was done before and is sent again", assignment.round)
            return done
        if assignment.task == "train" and job.privacy is not None:
            check_private(job.privacy, job.training, job.compute)
        self._limits.require_open()
        self._tell(SiteLive(phase="preparing", round=assignment.round), now=True)
        try:
            if assignment.task == "evaluate":
                self._under_way(assignment, "").remove()
                return self._evaluate(assignment, job, self.clips(assignment))
            clips = self.clips(assignment)
            self._limits.require_open()
            mid_round = self._under_way(assignment, f"{asked} {clips.digest}")
            report, trained = self._train(assignment, job, clips, mid_round)
            if spool.write(asked, report, trained):
                mid_round.remove()
            return report, trained
        finally:
            self._tell(SiteLive(phase="idle", round=assignment.round), now=True)

    def clips(self, assignment: Assignment) -> SiteClips:
        """Find, split by patient and encode the site's clips for the study.

        Clips that a person must approve first are not among them.

        Raises
        ------
        DataError
            If no clip is left for training.
        DeclinedError
            If the site's hours end or it is paused meanwhile; what is done stays.
        """
        study, site = assignment.study, self._site
        device = resolve_device(site.compute)
        codec = build_codec(study.codec, weights=site.codec_weights, device=device)
        with Manifest(site.store, alone="wait", waiting=self._looked) as manifest:
            inventory = scan(
                site.data,
                manifest=manifest,
                clips=study.clips,
                progress=lambda *_: self._looked(),
            )
            finish_erasing(site, manifest)
            inventory.require_clips()
            split = split_site(
                inventory.clips,
                heldout_fraction=study.clips.heldout_fraction,
                manifest=manifest,
            )
        prepared = prepare_at_site(
            site,
            inventory.clips,
            clips=study.clips,
            codec=codec,
            device=device,
            progress=lambda done, total: self._encoded(assignment.round, done, total),
            waiting=self._looked,
        )
        train, heldout = (
            prepared.of_patients(entry.patient for entry in side)
            for side in (split.train, split.heldout)
        )
        if not train.clips:
            raise DataError(
                f"nothing to train on: {len(split.train)} clips of patients in training, none of "
                f"which could be encoded, and {len(split.heldout)} of patients held out; add clips "
                "of other patients"
            )
        return SiteClips(
            LatentWindows(train, codec=codec, clips=study.clips),
            LatentWindows(heldout, codec=codec, clips=study.clips) if heldout.clips else None,
        )

    def _job(self, assignment: Assignment, weights: Mapping[str, Tensor]) -> RoundJob:
        study, compute = assignment.study, self._site.compute
        training = self._limits.shorten(study.training)
        if compute.precision is not None:
            training = training.model_copy(update={"precision": compute.precision})
        return RoundJob(
            model=study.model,
            diffusion=study.diffusion,
            training=training,
            weights=weights,
            seed=derive_seed(study.seed, self._site.name, assignment.round),
            first_step=assignment.first_step,
            total_steps=study.rounds * study.training.local_steps,
            compute=compute,
            folder=self._site.store / "training",
            optimiser_state=self._kept_state(assignment),
            label=label_of(self._site, study),
            privacy=study.privacy.patient,
        )

    def _kept_state(self, assignment: Assignment) -> dict[str, Tensor] | None:
        """Return the optimiser's state of the site's round before, where the study keeps it."""
        if assignment.study.training.optimiser_state == "reset" or assignment.task != "train":
            return None
        return self._optimiser(assignment).read(before=assignment.round)

    def _optimiser(self, assignment: Assignment) -> OptimiserStore:
        return OptimiserStore.of(
            self._site.store, study_id=assignment.study_id, model=assignment.study.model
        )

    def _under_way(self, assignment: Assignment, job: str) -> MidRoundFile:
        return under_way(self._site.store, study_id=assignment.study_id, job=job)

    def _train(
        self, assignment: Assignment, job: RoundJob, clips: SiteClips, mid_round: MidRoundFile
    ) -> tuple[Report, dict[str, Tensor]]:
        job = replace(job, resume=self._resumed(assignment, mid_round))
        done = job.resume.steps_done if job.resume else 0
        if not done and self._sec_to_deadline() <= 0:
            raise TrainingError(
                "the round's time was up before training began; what was encoded stays for the "
                "next one. If that is not enough, raise the study's sites.round_sec"
            )
        budget = PrivacyBudget(self._site)
        reservation = budget.reserve(assignment)
        minutes = self._site.checkpoint_minutes
        checkpoints = Checkpoints(
            mid_round, minutes and minutes * 60, written=lambda: self._witness("kept")
        )
        with self._events(assignment, job.first_step + done) as events:
            hooks = RoundHooks(
                alive=lambda: self._witness("alive"),
                progress=lambda step: self._step(assignment, job, step, events),
                must_end=self._must_end,
                keep=checkpoints.keep,
            )
            try:
                result = train_round(job, train=clips.train, heldout=clips.heldout, hooks=hooks)
            except _OF_THE_MACHINE:
                raise
            except Exception:
                # What failed may be what the steps came to, and the code that leaves tells of it.
                budget.settle(reservation)
                raise
            # Before anything of the result is kept but in the round's own checkpoint. A step that
            # was skipped was noised, too, and slows down those after it.
            budget.settle(reservation, steps=result.steps + result.skipped_steps)
            events.heldout(result.heldout_loss, step=job.first_step)
        self._witness("working")
        if result.optimiser_state is not None:
            self._keep_state(assignment, result.optimiser_state)
        report = Report(
            study_id=assignment.study_id,
            round=assignment.round,
            task="train",
            site=self._site.name,
            outcome="ok",
            examples=result.examples,
            patients=_told_patients(assignment, clips.train),
            steps=result.steps,
            skipped_steps=result.skipped_steps,
            ended_by=result.ended_by,
            train_loss=result.train_loss,
            heldout_loss=result.heldout_loss,
            train_sec=result.seconds,
        )
        return report, dict(result.weights)

    def _must_end(self) -> EndedBy | None:
        return self._limits.must_end() or ("minutes" if self._sec_to_deadline() <= 0 else None)

    def _sec_to_deadline(self) -> float:
        return self._train_until - time.monotonic()

    def _resumed(self, assignment: Assignment, mid_round: MidRoundFile) -> MidRound | None:
        """Return what an ended process left of this very round; any other's is removed."""
        state = mid_round.read()
        if state is None:
            mid_round.remove()
        else:
            log.info("round %d goes on after %d steps", assignment.round, state.steps_done)
        return state

    def _keep_state(self, assignment: Assignment, state: Mapping[str, Tensor]) -> None:
        """Keep the optimiser's state; the round is worth more than it."""
        try:
            self._optimiser(assignment).write(state, after=assignment.round)
        except StorageError as error:
            log.error("THE NEXT ROUND STARTS WITH AN OLDER OPTIMISER, free some disk: %s", error)

    def _evaluate(
        self, assignment: Assignment, job: RoundJob, clips: SiteClips
    ) -> tuple[Report, dict[str, Tensor]]:
        self._tell(SiteLive(phase="scoring", round=assignment.round), now=True)
        score = evaluate_round(job, heldout=clips.heldout) if clips.heldout else None
        last_step = assignment.first_step + assignment.study.training.local_steps
        with self._events(assignment, last_step) as events:
            events.heldout(score, step=last_step)
        report = Report(
            study_id=assignment.study_id,
            round=assignment.round,
            task="evaluate",
            site=self._site.name,
            outcome="ok",
            examples=clips.train.num_clips,
            heldout_loss=score,
        )
        return report, {}

    def _events(
        self, assignment: Assignment, step: int
    ) -> contextlib.AbstractContextManager[RoundEvents]:
        return round_events(self._site.store, study_id=assignment.study_id, first_step=step)

    def _looked(self) -> None:
        self._limits.require_open()
        self._witness("working")

    def _encoded(self, round_number: int, clips: int, of_clips: int) -> None:
        self._limits.require_open()
        self._tell(
            SiteLive(phase="preparing", round=round_number, clips=clips, of_clips=of_clips),
            now=clips == of_clips,
        )

    def _step(
        self, assignment: Assignment, job: RoundJob, step: StepProgress, events: RoundEvents
    ) -> None:
        events.step(step, step=job.first_step + step.step - 1)
        self._tell(
            SiteLive(
                phase="training",
                round=assignment.round,
                step=step.step,
                steps=step.steps,
                loss=step.loss,
                clips_per_sec=step.clips_per_sec,
                memory_bytes=step.memory_bytes or None,
                sec_left=self._sec_left(job, step),
            ),
            now=step.step == step.steps,
        )

    def _sec_left(self, job: RoundJob, step: StepProgress) -> float:
        """Return the time until the first of the round's ends."""
        ends = [
            (step.steps - step.step) * step.seconds / step.step,
            self._limits.sec_to_close(),
            self._sec_to_deadline(),
        ]
        if job.training.local_minutes is not None:
            ends.append(60 * job.training.local_minutes - step.seconds)
        return max(0.0, min(each for each in ends if each is not None))

    def _tell(self, live: SiteLive, *, now: bool = False) -> None:
        """Rewrite the site's progress file, at most twice a second."""
        sign: Sign = "stepped" if live.phase == "training" else "working"
        self._witness(sign)
        if now or time.monotonic() - self._told_at > _LIVE_EVERY_SEC:
            with contextlib.suppress(OSError):  # a full disk ends no round for its progress
                live.write(self._site.store / LIVE_FILE)
            self._told_at = time.monotonic()


def _told_patients(assignment: Assignment, train: LatentWindows) -> int | None:
    """Return how many patients the site trains on, if the study has to know."""
    return train.num_patients if assignment.study.strategy.weigh_by == "patients" else None
