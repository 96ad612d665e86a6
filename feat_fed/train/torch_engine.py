"""The reference engine: nothing but torch."""

from __future__ import annotations

from torch import Tensor, nn

from feat_fed.config import TrainingConfig
from feat_fed.train.engine import (
    LossFunction,
    StepOutcome,
    adamw,
    clip_gradient,
    set_learning_rate,
)
from feat_fed.train.weights import weights_of


class TorchEngine:
    """An :class:`~feat_fed.train.engine.Engine` that any other one must agree with."""

    def __init__(self, model: nn.Module, training: TrainingConfig) -> None:
        self._model = model
        self._limit = training.gradient_clip
        self._optimiser = adamw(model, training)

    def step(self, loss_of: LossFunction) -> StepOutcome:
        """Differentiate the loss, clip the gradient and update the weights."""
        self._optimiser.zero_grad()
        loss = loss_of(self._model)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = clip_gradient(self._model, self._limit)
        self._optimiser.step()
        return StepOutcome(loss=loss.item(), gradient_norm=norm)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use this learning rate from the next step on."""
        set_learning_rate(self._optimiser, learning_rate)

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the weights on the CPU, floats as float32."""
        return weights_of(self._model)

    def close(self) -> None:
        """Do nothing: everything is freed with the engine."""
