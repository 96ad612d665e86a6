"""One classifier, trained with or without unlabelled clips, and tested.

Legend: N clips, V windows of a clip, B labelled clips of a step, U unlabelled ones, T frames, S
side in pixels, 3 colour channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from feat_fed.downstream.augment import strong, weak
from feat_fed.downstream.fixmatch import averaged, ema_decay, fixmatch_loss, learning_rate
from feat_fed.downstream.network import make_network, to_input
from feat_fed.downstream.settings import TrainingSettings
from feat_fed.errors import TrainingError

UInt8Array = NDArray[np.uint8]

_TEST_BATCH = 32


@dataclass(frozen=True)
class Windows:
    """Clips in memory, and their classes.

    Parameters
    ----------
    windows_NVTSS3
        As :func:`feat_fed.downstream.windows.decode_windows` gives them.
    labels_N
        Class numbers, int64.
    """

    windows_NVTSS3: UInt8Array
    labels_N: NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    """A classifier whose weights are averaged, and how its training went.

    Parameters
    ----------
    loss, kept
        Means over the last tenth of the steps: of the whole loss, and of the share of pseudo-labels
        that count; ``None`` without unlabelled clips.
    """

    network: nn.Module
    loss: float
    kept: float | None


def train(
    labelled: Windows,
    unlabelled_NVTSS3: UInt8Array | None,
    settings: TrainingSettings,
    *,
    num_classes: int,
    seed: int,
    device: torch.device,
    stepped: Callable[[], None] = lambda: None,
) -> Trained:
    """Train from a seed; with unlabelled clips by FixMatch, without by cross-entropy alone.

    Initial weights and what is drawn of the labelled clips depend on the seed only, so that the
    two ways differ in the unlabelled part of the loss and in nothing else. Every batch has as many
    clips of each class as it can.

    Raises
    ------
    TrainingError
        When the loss is not finite.
    """
    network = make_network(
        settings.network, num_classes=num_classes, seed=seed, weights=settings.weights
    ).to(device)
    average = AveragedModel(
        network, device=device, avg_fn=_average(settings.ema_decay), use_buffers=True
    )
    optimiser = _optimiser(network, settings)
    draw = _Labelled(labelled, settings, seed)
    more = None if unlabelled_NVTSS3 is None else _Unlabelled(unlabelled_NVTSS3, settings, seed)
    losses, kept = [], []
    network.train()
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(step, steps=settings.steps, first=settings.learning_rate)
        loss, counted = _step_loss(network, draw, more, settings, device)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {step + 1} is {loss.item()}; lower the learning rate "
                f"(training.learning_rate in --config, {settings.learning_rate:g})"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        average.update_parameters(network)
        losses.append(loss.item())
        kept.append(counted)
        stepped()
    last = max(1, settings.steps // 10)
    return Trained(
        average.module,
        float(np.mean(losses[-last:])),
        None if more is None else float(np.mean(kept[-last:])),
    )


@torch.inference_mode()
def predict(
    network: nn.Module, windows_NVTSS3: UInt8Array, device: torch.device
) -> NDArray[np.float64]:
    """Return each clip's probabilities, (N, K): the mean over its windows."""
    network.eval()
    clips, views = windows_NVTSS3.shape[:2]
    flat = windows_NVTSS3.reshape(clips * views, *windows_NVTSS3.shape[2:])
    parts = [
        network(to_input(flat[start : start + _TEST_BATCH], device)).softmax(dim=1).cpu()
        for start in range(0, len(flat), _TEST_BATCH)
    ]
    probabilities = torch.cat(parts).double().numpy()
    return np.asarray(probabilities.reshape(clips, views, -1).mean(axis=1))


class _Deck:
    """Numbers dealt in random order, all of them before any comes again."""

    def __init__(self, numbers: NDArray[np.int64], rng: np.random.Generator) -> None:
        self._numbers, self._rng = numbers, rng
        self._left: list[int] = []

    def deal(self) -> int:
        if not self._left:
            self._left = list(self._rng.permutation(self._numbers))
        return self._left.pop()


class _Labelled:
    """Batches of weakly augmented clips, the classes in turn."""

    def __init__(self, clips: Windows, settings: TrainingSettings, seed: int) -> None:
        self._rng = np.random.default_rng((seed, 1))
        self._clips, self._settings = clips, settings
        self._decks = [
            _Deck(np.flatnonzero(clips.labels_N == label), self._rng)
            for label in np.unique(clips.labels_N)
        ]
        self._turn = 0

    def batch(self) -> tuple[UInt8Array, NDArray[np.int64]]:
        """Return (B, T, S, S, 3) and labels."""
        chosen = []
        for _ in range(self._settings.batch_size):
            chosen.append(self._decks[self._turn % len(self._decks)].deal())
            self._turn += 1
        windows = _one_view(self._clips.windows_NVTSS3, chosen, self._rng)
        return weak(windows, self._rng, flip=self._settings.flip), self._clips.labels_N[chosen]


class _Unlabelled:
    """Batches of clips, augmented weakly and strongly."""

    def __init__(self, windows_NVTSS3: UInt8Array, settings: TrainingSettings, seed: int) -> None:
        self._rng = np.random.default_rng((seed, 2))
        self._windows, self._settings = windows_NVTSS3, settings
        self._deck = _Deck(np.arange(len(windows_NVTSS3)), self._rng)

    def batch(self) -> tuple[UInt8Array, UInt8Array]:
        """Return two augmentations of the same windows, (U, T, S, S, 3) each."""
        settings = self._settings
        chosen = [self._deck.deal() for _ in range(settings.mu * settings.batch_size)]
        windows = _one_view(self._windows, chosen, self._rng)
        return (
            weak(windows, self._rng, flip=settings.flip),
            strong(windows, self._rng, ops=settings.strong_ops, flip=settings.flip),
        )


def _one_view(
    windows_NVTSS3: UInt8Array, chosen: list[int], rng: np.random.Generator
) -> UInt8Array:
    views = rng.integers(0, windows_NVTSS3.shape[1], size=len(chosen))
    return np.asarray(windows_NVTSS3[chosen, views])


def _step_loss(
    network: nn.Module,
    labelled: _Labelled,
    unlabelled: _Unlabelled | None,
    settings: TrainingSettings,
    device: torch.device,
) -> tuple[Tensor, float]:
    """Return the step's loss and the share of pseudo-labels that count.

    All clips pass together, so that normalisation sees one batch.
    """
    clips, labels = labelled.batch()
    labels_B = torch.from_numpy(labels).to(device)
    if unlabelled is None:
        return nnf.cross_entropy(network(to_input(clips, device)), labels_B), 0.0
    weak_clips, strong_clips = unlabelled.batch()
    together = np.concatenate([clips, weak_clips, strong_clips])
    labelled_BK, weak_UK, strong_UK = network(to_input(together, device)).split(
        [len(clips), len(weak_clips), len(strong_clips)]
    )
    loss = fixmatch_loss(
        labelled_BK,
        labels_B,
        weak_UK,
        strong_UK,
        threshold=settings.threshold,
        lambda_u=settings.lambda_u,
    )
    return loss.total, loss.kept.item()


def _optimiser(network: nn.Module, settings: TrainingSettings) -> torch.optim.SGD:
    parameters = list(network.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [each for each in parameters if each.ndim > 1]},
        {"params": [each for each in parameters if each.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )


def _average(most: float) -> Callable[[Tensor, Tensor, Tensor | int], Tensor]:
    def step(average: Tensor, weights: Tensor, updates: Tensor | int) -> Tensor:
        return averaged(average, weights, decay=ema_decay(int(updates), most=most))

    return step
