"""The reference engine: nothing but torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from feat_fed.config import TrainingConfig
from feat_fed.train.engine import (
    LossFunction,
    StepOutcome,
    adamw,
    clip_gradient,
    set_learning_rate,
)
from feat_fed.train.optimiser_state import load_state, state_of
from feat_fed.train.peers import ALONE, Peers
from feat_fed.train.proximal import ProximalPull
from feat_fed.train.weights import load_weights, weights_of


class TorchEngine:
    """An :class:`~feat_fed.train.engine.Engine` that any other one must agree with."""

    def __init__(self, model: nn.Module, training: TrainingConfig, peers: Peers = ALONE) -> None:
        self._model = model
        self._peers = peers
        self._limit = training.gradient_clip
        self._pull = ProximalPull(model, mu=training.proximal_mu)
        self._optimiser = adamw(model, training)

    def step(self, parts: Sequence[LossFunction]) -> StepOutcome:
        """Differentiate the sum of the losses, pull, clip, and update the weights if finite."""
        self._optimiser.zero_grad()
        losses = []
        for loss_of in parts:
            loss = loss_of(self._model)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return self._update(torch.stack(losses).sum())

    def step_with(self, gradient: Sequence[Tensor], *, loss: float) -> StepOutcome:
        """Take each process's part of a gradient, pull, clip, and update the weights if finite."""
        for weight, part in zip(self._model.parameters(), gradient, strict=True):
            weight.grad = part
        outcome = self._update(loss)
        self._optimiser.zero_grad()
        return outcome

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use this learning rate from the next step on."""
        set_learning_rate(self._optimiser, learning_rate)

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the weights on the CPU, floats as float32."""
        return weights_of(self._model)

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from these weights; the pull of FedProx stays towards the first ones."""
        load_weights(self._model, weights)

    def optimiser_state(self) -> dict[str, Tensor]:
        """Return copies of AdamW's state on the CPU."""
        return state_of(self._optimiser, self._model)

    def load_optimiser_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the state of an earlier engine."""
        load_state(self._optimiser, self._model, state)

    def close(self) -> None:
        """Do nothing: everything is freed with the engine."""

    def _update(self, loss: Tensor | float) -> StepOutcome:
        """Update by the weights' gradients, of which each process has its part."""
        if self._peers.size > 1:
            self._add_up_gradients()
        self._pull.add_to_gradient()
        norm = clip_gradient(self._model, self._limit)
        (loss_sum,) = self._peers.sum([float(loss)])
        outcome = StepOutcome(loss=loss_sum, gradient_norm=norm)
        if outcome.taken:
            self._optimiser.step()
        return outcome

    def _add_up_gradients(self) -> None:
        """Make every process's gradient the sum of all, in one exchange."""
        gradients = [each.grad for each in self._model.parameters() if each.grad is not None]
        flat = torch.cat([each.flatten() for each in gradients])
        self._peers.add_up(flat)
        parts = torch.split(flat, [each.numel() for each in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
