"""The model of a run between two rounds, in the run's folder: written, read back, moved on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from feat_fed.errors import CheckpointError
from feat_fed.model import FEAT, read_weights, write_weights
from feat_fed.report.run_store import RunStore
from feat_fed.train.ema import ema_update

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GlobalState:
    """What a round starts from."""

    rounds_done: int
    weights: dict[str, Tensor]
    ema: dict[str, Tensor]

    def after_round(self, weights: Mapping[str, Tensor], *, ema_decay: float) -> GlobalState:
        """Return the state that the next round starts from."""
        number = self.rounds_done + 1
        # The untrained weights get no part: a plain mean of the rounds until there are enough.
        decay = min(ema_decay, (number - 1) / number)
        return GlobalState(number, dict(weights), ema_update(self.ema, weights, decay=decay))


def restore(store: RunStore) -> GlobalState:
    """Return the last whole state in the run's folder; a damaged newest one is passed over."""
    newest = store.latest_round()
    for number in range(newest if newest is not None else -1, -1, -1):
        try:
            return GlobalState(
                number,
                read_weights(
                    store.checkpoint(number), kind="global", model=store.study.model
                ).tensors,
                read_weights(store.ema(number), kind="ema", model=store.study.model).tensors,
            )
        except CheckpointError as error:
            log.warning("round %d cannot be restored: %s", number, error)
    torch.manual_seed(store.study.seed)
    weights = {name: each.detach() for name, each in FEAT(store.study.model).state_dict().items()}
    state = GlobalState(0, weights, dict(weights))
    save(store, state)
    return state


def save(store: RunStore, state: GlobalState) -> None:
    """Write both weights files of a round; the round counts as done when both are there."""
    number, model = state.rounds_done, store.study.model
    write_weights(store.checkpoint(number), state.weights, kind="global", model=model)
    write_weights(store.ema(number), state.ema, kind="ema", model=model)


def summarise(
    store: RunStore,
    state: GlobalState,
    to: Literal["running", "complete"],
    *,
    final_heldout_loss: float | None = None,
) -> None:
    """Write into the run's summary how far it is."""
    now = {
        "state": to,
        "rounds_done": state.rounds_done,
        "rounds_wanted": store.study.rounds,
        "final_heldout_loss": final_heldout_loss,
        "message": "",
    }
    store.write_summary(store.summary().model_copy(update=now))
