"""Flower's server optimisers, a group of tensors at a time, with their state outside of them.

FedAvgM is Hsu et al. 2019 (arXiv:1909.06335); FedAdam, FedYogi and FedAdagrad are Reddi et al.
2021 (arXiv:2003.00295). The mean of the updates is their pseudo-gradient. Two ways of Flower's
stay as they are: FedAvgM's momentum is the whole first update (no dampening), and FedAdam's bias
correction of round t has the exponent t + 1, where Kingma and Ba have t.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch
from flwr.serverapp.strategy import FedAdagrad, FedAdam, FedAvgM, FedYogi
from flwr.serverapp.strategy.fedopt import FedOpt
from torch import Tensor

from feat_fed.config import StrategyConfig
from feat_fed_server.flower_arrays import WEIGHT_KEY, reply_of, tensors_of, to_arrays

Tensors = dict[str, Tensor]


class ServerOptimiser(Protocol):
    """From the mean of the sites' weights to the next global weights."""

    def step(
        self,
        round_number: int,
        mean: Mapping[str, Tensor],
        previous: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[Tensors, Tensors]:
        """Return new weights and new state of some tensors, all of float32 or wider.

        Parameters
        ----------
        state
            What the round before returned of these tensors; empty in the first.
        """
        ...


def build_server_optimiser(config: StrategyConfig) -> ServerOptimiser | None:
    """Return the strategy's, if it has one."""
    if config.kind == "fedavgm":
        return _Momentum(config)
    if config.kind in ("fedadam", "fedyogi", "fedadagrad"):
        return _Adaptive(config)
    return None


class _Momentum:
    """FedAvgM; the state is ``momentum/NAME``."""

    def __init__(self, config: StrategyConfig) -> None:
        self._flower = FedAvgM(
            weighted_by_key=WEIGHT_KEY,
            server_learning_rate=config.option("server_learning_rate"),
            server_momentum=config.option("server_momentum"),
        )

    def step(
        self,
        round_number: int,
        mean: Mapping[str, Tensor],
        previous: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[Tensors, Tensors]:
        flower, names = self._flower, list(previous)
        known = _known("momentum", names, state)
        flower.current_arrays = to_arrays(previous)
        flower.momentum_vector = [known[name].numpy() for name in names] if known else None
        arrays, _ = flower.aggregate_train(round_number, [reply_of(mean)])
        momentum = flower.momentum_vector or []
        new = {
            f"momentum/{name}": torch.from_numpy(np.asarray(each))
            for name, each in zip(names, momentum, strict=bool(momentum))
        }
        return tensors_of(arrays), new


class _Adaptive:
    """FedAdam, FedYogi and FedAdagrad; the state is ``m/NAME`` and ``v/NAME``."""

    def __init__(self, config: StrategyConfig) -> None:
        rate, tau = config.option("server_learning_rate"), config.option("server_tau")
        self._flower: FedOpt
        if config.kind == "fedadagrad":
            self._flower = FedAdagrad(weighted_by_key=WEIGHT_KEY, eta=rate, tau=tau)
        else:
            self._flower = {"fedadam": FedAdam, "fedyogi": FedYogi}[config.kind](
                weighted_by_key=WEIGHT_KEY,
                eta=rate,
                tau=tau,
                beta_1=config.option("server_momentum"),
                beta_2=config.option("server_beta_2"),
            )

    def step(
        self,
        round_number: int,
        mean: Mapping[str, Tensor],
        previous: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
    ) -> tuple[Tensors, Tensors]:
        flower, names = self._flower, list(previous)
        flower.current_arrays = {name: tensor.numpy() for name, tensor in previous.items()}
        for moment in ("m", "v"):
            known = _known(moment, names, state)
            setattr(flower, f"{moment}_t", {name: each.numpy() for name, each in known.items()})
        arrays, _ = flower.aggregate_train(round_number, [reply_of(mean)])
        new = {
            f"{moment}/{name}": torch.from_numpy(np.asarray(each))
            for moment, found in (("m", flower.m_t), ("v", flower.v_t))
            for name, each in (found or {}).items()
        }
        return tensors_of(arrays), new


def _known(prefix: str, names: list[str], state: Mapping[str, Tensor]) -> Tensors:
    """Return a part of the state by the weights' names: of all of them, or nothing."""
    found = {name: state.get(f"{prefix}/{name}") for name in names}
    return {name: each for name, each in found.items() if each is not None}
