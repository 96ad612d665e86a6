"""The two experiments: which clips each arm is trained on, and what comes of it.

Legend: N test clips, K classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from feat_fed.downstream.labelled import LabelledClips, class_names, named, refuse_shared
from feat_fed.downstream.results import (
    Answers,
    DataFacts,
    DownstreamResults,
    arms_of,
)
from feat_fed.downstream.settings import ArmName, DownstreamConfig, Draw, Task, WindowSettings
from feat_fed.downstream.training import Windows, predict, train
from feat_fed.downstream.windows import check_memory, decode_windows
from feat_fed.errors import ConfigError, DataError
from feat_fed.evaluate.clips import FileClips
from feat_fed.versions import installed_versions

_RESAMPLES = 1000


@dataclass(frozen=True)
class ArmClips:
    """What one training sees: clips of the pool by number, and clips without labels."""

    name: ArmName
    labelled: Windows
    unlabelled: NDArray[np.uint8] | None


@dataclass(frozen=True)
class Experiment:
    """Decoded clips, and the arms of every seed.

    Parameters
    ----------
    arms
        From a seed to what is trained with it.
    """

    task: Task
    positive: int
    test: Windows
    test_patients: tuple[str, ...]
    facts: DataFacts
    config: DownstreamConfig
    arms: Callable[[int], Sequence[ArmClips]] = field(repr=False)

    def answers(
        self,
        seeds: Sequence[int],
        device: torch.device,
        *,
        stepped: Callable[[], None] = lambda: None,
    ) -> Iterator[Answers]:
        """Train and test every arm with each seed in turn; give what each says as it is done."""
        for seed in seeds:
            for arm in self.arms(seed):
                begun = time.monotonic()
                trained = train(
                    arm.labelled,
                    arm.unlabelled,
                    self.config.training,
                    num_classes=len(self.facts.classes),
                    seed=seed,
                    device=device,
                    stepped=stepped,
                )
                said_NK = predict(trained.network, self.test.windows_NVTSS3, device)
                yield Answers(
                    arm=arm.name,
                    num_labelled=len(arm.labelled.labels_N),
                    num_unlabelled=0 if arm.unlabelled is None else len(arm.unlabelled),
                    seed=seed,
                    probabilities_NK=said_NK,
                    loss=trained.loss,
                    kept=trained.kept,
                    seconds=time.monotonic() - begun,
                )

    def results(self, answers: Sequence[Answers], *, complete: bool) -> DownstreamResults:
        """Score what has been answered so far."""
        return DownstreamResults(
            task=self.task,
            complete=complete,
            data=self.facts,
            config=self.config,
            versions=installed_versions(),
            resamples=_RESAMPLES,
            arms=arms_of(
                answers,
                self.test.labels_N,
                self.test_patients,
                positive=self.positive,
                resamples=_RESAMPLES,
            ),
        )


def fixmatch_experiment(
    pool: LabelledClips,
    test: LabelledClips,
    generated: FileClips | None,
    config: DownstreamConfig,
    *,
    num_labelled: int,
    arms: Sequence[ArmName],
    draw: Draw = "random",
    positive: str | None = None,
    decoded: Callable[[], None] = lambda: None,
) -> Experiment:
    """Label a few clips of the pool; what adding clips without labels gives.

    ``supervised`` has the labelled clips alone, ``rest`` the others of the pool as unlabelled
    clips, ``generated`` the generated ones. The labelled clips are as many of each class, drawn
    anew with each seed, or always the ``first`` of the list.

    Raises
    ------
    ConfigError
        When an arm has nothing to be made of, or memory is short.
    DataError
        When a class has too few clips, or a clip cannot be read or is shared with the test.
    """
    classes, windows = class_names(pool.labels), config.windows
    share = _per_class(pool, num_labelled)
    if "generated" in arms and generated is None:
        raise ConfigError("the arm generated needs clips: name their folder with --generated")
    if "rest" in arms and len(pool) == num_labelled:
        raise ConfigError(
            f"the arm rest has no clips: all {num_labelled} to train on are labelled; lower "
            "--labelled"
        )
    if generated is not None:
        refuse_shared(generated, test.clips)
    twice = len(pool) if "rest" in arms else 0  # an arm's clips are copied from the pool
    check_memory(len(pool) + twice + len(test) + len(generated or ()), windows)
    pool_windows = _decoded(pool, classes, windows, decoded)
    test_windows = _decoded(test, classes, windows, decoded)
    more = None if generated is None else decode_windows(generated, windows, decoded=decoded)

    def arms_of_seed(seed: int) -> list[ArmClips]:
        chosen = _chosen(pool_windows.labels_N, share, seed if draw == "random" else None)
        labelled = Windows(pool_windows.windows_NVTSS3[chosen], pool_windows.labels_N[chosen])
        rest = np.setdiff1d(np.arange(len(pool)), chosen)
        unlabelled = {"rest": pool_windows.windows_NVTSS3[rest], "generated": more}
        return [ArmClips(name, labelled, unlabelled.get(name)) for name in arms]

    place = _positive(classes, positive)
    facts = _facts(classes, place, pool, test)
    if generated is not None:
        facts = _with_generated(facts, generated, len(generated))
    return Experiment("fixmatch", place, test_windows, test.patients, facts, config, arms_of_seed)


def tstr_experiment(
    real: LabelledClips,
    test: LabelledClips,
    generated: LabelledClips,
    config: DownstreamConfig,
    *,
    positive: str | None = None,
    decoded: Callable[[], None] = lambda: None,
) -> Experiment:
    """Train on real clips, and on generated ones of the same classes; test both on real clips.

    Raises
    ------
    ConfigError
        When memory is short.
    DataError
        When the classes differ, or a clip cannot be read or is shared with the test.
    """
    classes, windows = class_names(real.labels), config.windows
    given = class_names(generated.labels)
    if odd := [name for name in given if name not in classes]:
        raise DataError(
            f"{generated.clips.name} has clips of the class {named(odd)}, and real clips are of "
            f"{named(classes)}; name the classes alike"
        )
    if missing := [name for name in classes if name not in given]:
        raise DataError(
            f"{generated.clips.name} has no clips of the class {named(missing)}; generate some"
        )
    refuse_shared(generated.clips, test.clips)
    check_memory(len(real) + len(test) + len(generated), windows)
    real_windows = _decoded(real, classes, windows, decoded)
    test_windows = _decoded(test, classes, windows, decoded)
    generated_windows = _decoded(generated, classes, windows, decoded)
    place = _positive(classes, positive)
    facts = _facts(classes, place, real, test)
    facts = _with_generated(facts, generated.clips, generated.counts())
    arms = [ArmClips("real", real_windows, None), ArmClips("generated", generated_windows, None)]
    return Experiment("tstr", place, test_windows, test.patients, facts, config, lambda _: arms)


def _facts(
    classes: tuple[str, ...], positive: int, train: LabelledClips, test: LabelledClips
) -> DataFacts:
    return DataFacts(
        classes=classes,
        positive=classes[positive] if len(classes) == 2 else None,
        train=train.counts(),
        test=test.counts(),
        test_patients=len(set(test.patients)),
        digests={"train": train.clips.digest, "test": test.clips.digest},
    )


def _with_generated(facts: DataFacts, clips: FileClips, counts: int | dict[str, int]) -> DataFacts:
    digests = facts.digests | {"generated": clips.digest}
    return facts.model_copy(update={"generated": counts, "digests": digests})


def _per_class(pool: LabelledClips, num_labelled: int) -> int:
    counts = pool.counts()
    if num_labelled % len(counts):
        raise ConfigError(
            f"--labelled {num_labelled} cannot be shared out evenly to {len(counts)} classes; take "
            f"a multiple of {len(counts)}"
        )
    share = num_labelled // len(counts)
    if few := [f"{name} ({count})" for name, count in counts.items() if count < share]:
        raise DataError(
            f"{pool.clips.name}: {share} labelled clips of each class are asked for, and there are "
            f"fewer of {named(few)}; lower --labelled to {min(counts.values()) * len(counts)}"
        )
    return share


def _chosen(labels_N: NDArray[np.int64], share: int, seed: int | None) -> NDArray[np.int64]:
    """Return ``share`` numbers of each class, in order: at random, or the first without a seed."""
    chosen = []
    for label in np.unique(labels_N):
        of_class = np.flatnonzero(labels_N == label)
        if seed is not None:
            of_class = np.random.default_rng((seed, 0, int(label))).permutation(of_class)
        chosen.append(of_class[:share])
    return np.sort(np.concatenate(chosen))


def _decoded(
    clips: LabelledClips,
    classes: Sequence[str],
    settings: WindowSettings,
    decoded: Callable[[], None],
) -> Windows:
    numbers = np.array([classes.index(label) for label in clips.labels], dtype=np.int64)
    return Windows(decode_windows(clips.clips, settings, decoded=decoded), numbers)


def _positive(classes: Sequence[str], name: str | None) -> int:
    """Return the positive class: the one named, or else the last."""
    if name is None:
        return len(classes) - 1
    if name not in classes:
        raise ConfigError(f"--positive {name} is no class; there are {named(classes)}")
    return classes.index(name)
