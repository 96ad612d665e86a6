"""The same training, not federated: on all hospitals' clips at once, and on each one's own.

What is held equal with the federated study: the network and its first weights, the clips and who
is held out, the rounds, the optimiser steps of a round, the learning rate of each step, and the
clips that a step takes at all places together. So all clips in one place are taken in batches as
many times as large as there are hospitals, and in all as many go through the network. What serves
federating alone is left out: there is no term of FedProx, no server that noises, masks, weighs or
optimises, and AdamW's moments are kept from round to round. DP-SGD over patients stays, since it is
a part of a hospital's own step.

Scores: each hospital's held-out loss (:func:`feat_fed.train.heldout_loss`), on its own held-out
patients, whom no model has seen: the same clips, timesteps and noise for every model and round.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from feat_fed.codec import LatentWindows, WindowsSource
from feat_fed.config import (
    ComputeConfig,
    PrivacyConfig,
    SitesConfig,
    StrategyConfig,
    StudyConfig,
    TransferConfig,
)
from feat_fed.config.base import StrictModel
from feat_fed.errors import ConfigError
from feat_fed.model import read_weights
from feat_fed.report.baseline_folder import (
    CENTRALISED,
    BaselineFolder,
    HospitalFacts,
    RoundScores,
    mean_loss,
    read_scores,
    scores_of,
)
from feat_fed.report.json_lines import append_record
from feat_fed.report.records import RoundRecord, SiteRound
from feat_fed.report.run_store import RunStore
from feat_fed.train import (
    EvaluationJob,
    RoundHooks,
    RoundJob,
    StepProgress,
    derive_seed,
    evaluate_round,
    train_round,
)
from feat_fed.train.rotation import rotate
from feat_fed.train.run_state import GlobalState, restore, save, summarise
from feat_fed.train.steps import planned_steps

Weights = Mapping[str, Tensor]
Progress = Callable[[int, StepProgress], None]
"""Told a round's number and a step of it."""


class HospitalClips(StrictModel):
    """Where a hospital's latents lie, and what they are computed on."""

    train: WindowsSource
    heldout: WindowsSource | None
    compute: ComputeConfig
    label: int | None


class BaselinePlan(StrictModel):
    """What a process that trains a baseline has to know of the hospitals."""

    hospitals: dict[str, HospitalClips]

    def training_of(self, hospital: str | None) -> HospitalClips:
        """Return a hospital's clips, or those of all as if one had them.

        Raises
        ------
        ConfigError
            If the hospitals' clips are of different classes: a step knows one class.
        """
        if hospital is not None:
            return self.hospitals[hospital]
        each = list(self.hospitals.values())
        if len({one.label for one in each}) > 1:
            labels = ", ".join(f"{name}: {one.label}" for name, one in self.hospitals.items())
            raise ConfigError(
                f"the hospitals' clips are of different classes (data.label; {labels}), and one "
                "training on all of them would need one; leave --baseline centralised out"
            )
        clips = tuple(clip for one in each for clip in one.train.clips)
        pooled = each[0].train.model_copy(update={"clips": clips})
        return each[0].model_copy(update={"train": pooled})


def baseline_study(study: StudyConfig, *, hospitals: int = 1) -> StudyConfig:
    """Return the study as one place does it that has the clips of so many hospitals."""
    training = {
        "proximal_mu": 0.0,
        "optimiser_state": "kept",
        "batch_size": hospitals * study.training.batch_size,
    }
    alone = {
        "training": study.training.model_copy(update=training),
        "strategy": StrategyConfig(weigh_by="equal", ema_decay=study.strategy.ema_decay),
        "sites": SitesConfig(minimum=1),
        "transfer": TransferConfig(),
        "privacy": PrivacyConfig(patient=study.privacy.patient),
        "evaluation": None,
    }
    return study.model_copy(update=alone)


def train_baseline(
    store: RunStore,
    plan: BaselinePlan,
    facts: Mapping[str, HospitalFacts],
    *,
    hospital: str | None,
    progress: Progress = lambda *_: None,
) -> None:
    """Train what is left of a baseline's rounds, and score every round's weights.

    Parameters
    ----------
    store
        The baseline's own run.
    hospital
        Whose clips; None: those of all.

    Raises
    ------
    ConfigError
        If this study cannot be trained so.
    FeatFedError
        What a round at a site may raise (:func:`feat_fed.train.train_round`).
    """
    name = hospital or CENTRALISED
    clips = plan.training_of(hospital)
    train, heldout = clips.train.open(), HeldoutScores(plan, store.study)
    state = restore(store)
    while True:
        score = mean_loss(heldout.kept(scores_of(store.root), state), facts)
        if state.rounds_done >= store.study.rounds:
            break
        record, state = _round(store, state, clips, train, name=name, progress=progress)
        store.append(record.model_copy(update={"heldout_loss": score}))
        save(store, state)
        rotate(store)
        summarise(store, state, "running")
    summarise(store, state, "complete", final_heldout_loss=score)


def _round(
    store: RunStore,
    state: GlobalState,
    clips: HospitalClips,
    train: LatentWindows,
    *,
    name: str,
    progress: Progress,
) -> tuple[RoundRecord, GlobalState]:
    study, number = store.study, state.rounds_done + 1
    started_at, started_sec = dt.datetime.now(dt.UTC), time.monotonic()
    job = RoundJob(
        model=study.model,
        diffusion=study.diffusion,
        training=study.training,
        weights=state.weights,
        seed=derive_seed(study.seed, name, number),
        first_step=(number - 1) * study.training.local_steps,
        total_steps=study.rounds * study.training.local_steps,
        compute=clips.compute,
        folder=store.root / "training",
        # The file in which a server keeps its optimiser keeps AdamW's moments here.
        optimiser_state=state.optimiser or None,
        label=clips.label,
        privacy=study.privacy.patient,
    )
    hooks = RoundHooks(progress=lambda step: progress(number, step))
    result = train_round(job, train=train, heldout=None, hooks=hooks)
    record = RoundRecord(
        round=number,
        started_at=started_at.isoformat(timespec="seconds"),
        seconds=time.monotonic() - started_sec,
        train_loss=result.train_loss,
        heldout_loss=None,
        sites=(
            SiteRound(
                site=name,
                status="ok",
                examples=result.examples,
                steps=result.steps,
                planned_steps=planned_steps(study.training, num_clips=result.examples),
                ended_by=result.ended_by,
                skipped_steps=result.skipped_steps,
                train_loss=result.train_loss,
                train_sec=result.seconds,
            ),
        ),
    )
    return record, state.after_round(
        result.weights, ema_decay=study.strategy.ema_decay, optimiser=result.optimiser_state
    )


class HeldoutScores:
    """All hospitals, as they score weights on their own held-out patients."""

    def __init__(self, plan: BaselinePlan, study: StudyConfig) -> None:
        self._study = study
        self._hospitals = {
            name: (clips, _Fixed(clips.heldout.open().fixed(study.training.heldout_clips)))
            for name, clips in plan.hospitals.items()
            if clips.heldout is not None
        }

    @property
    def names(self) -> frozenset[str]:
        """Hospitals that hold patients out."""
        return frozenset(self._hospitals)

    def of(self, weights: Weights) -> dict[str, float]:
        """Return the loss at each hospital that holds patients out."""
        study = self._study
        return {
            name: evaluate_round(
                EvaluationJob(
                    model=study.model,
                    diffusion=study.diffusion,
                    training=study.training,
                    weights=weights,
                    compute=clips.compute,
                    label=clips.label,
                ),
                heldout=fixed,
            )
            for name, (clips, fixed) in self._hospitals.items()
        }

    def kept(self, path: Path, state: GlobalState) -> dict[str, float]:
        """Return the losses of a state, from the file or else computed and put there."""
        known = read_scores(path).get(state.rounds_done)
        if known is None:
            known = self.of(state.weights)
            append_record(path, RoundScores(round=state.rounds_done, losses=known))
        return known


def score_federated(store: RunStore, plan: BaselinePlan) -> None:
    """Write down how the hospitals score the study's own models, as far as they can be known.

    A round's losses are those that all hospitals told in the round after it; where one did not
    (it took no part, or privacy keeps it from telling), they are computed from the round's
    checkpoint, and without one the round is left out.
    """
    heldout, path = HeldoutScores(plan, store.study), BaselineFolder.of_run(store.root).federated
    known = read_scores(path)
    told = {record.round - 1: _told(record) for record in store.rounds()}
    for number in range(store.summary().rounds_done + 1):
        if number in known:
            continue
        losses = told.get(number, {})
        if not heldout.names <= losses.keys():
            if not store.checkpoint(number).exists():
                continue
            losses = heldout.of(read_weights(store.checkpoint(number), kind="global").tensors)
        losses = {name: losses[name] for name in sorted(heldout.names)}
        append_record(path, RoundScores(round=number, losses=losses))


def _told(record: RoundRecord) -> dict[str, float]:
    return {part.site: part.heldout_loss for part in record.sites if part.heldout_loss is not None}


@dataclass(frozen=True)
class _Fixed:
    """The clips that score, in memory."""

    z_NFCHW: Tensor

    def fixed(self, num_clips: int) -> Tensor:
        """Return them."""
        return self.z_NFCHW[:num_clips]
