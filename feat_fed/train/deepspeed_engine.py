"""The DeepSpeed engine without sharding; importing this module imports DeepSpeed.

ZeRO stage 0 in float32 with torch's AdamW: a single process has no partner to shard with,
and stage 0 leaves each gradient in ``Parameter.grad``, where it is clipped by the same
function as in the torch engine. So both engines give the same bits. (ZeRO-1 on one process
holds another copy of weights and gradients, and clips by a formula that rounds otherwise.)
Among several processes DeepSpeed averages the gradients, and the rest is the same; what is
sharded is in :mod:`feat_fed.train.zero_engine`.

A lone process's group of one rank lives as long as the engine. Its store is in memory and its
sockets are bound to loopback, so no rendezvous file, port or launcher variable is needed and
nobody outside the machine can connect.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

from feat_fed.config import TrainingConfig
from feat_fed.errors import TrainingError
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

_log = logging.getLogger(__name__)


def _to_our_log(record: logging.LogRecord) -> bool:
    _log.log(min(record.levelno, logging.INFO), "%s", record.getMessage())
    return False


# DeepSpeed writes to stdout from the moment that it is imported.
logging.getLogger("DeepSpeed").addFilter(_to_our_log)

import deepspeed  # noqa: E402
import deepspeed.accelerator as ds_accelerator  # noqa: E402
import deepspeed.comm as ds_comm  # noqa: E402

# No native op is compatible: else DeepSpeed tries compilers, and on a CPU builds a shared-memory
# collective with g++ for the first engine.
deepspeed.ops.__compatible_ops__ = {}


class DeepSpeedEngine:
    """An :class:`~feat_fed.train.engine.Engine` on DeepSpeed; one at a time in a process.

    Raises
    ------
    TrainingError
        If a process alone already has a process group (an engine that was not closed).
    """

    def __init__(self, model: nn.Module, training: TrainingConfig, peers: Peers = ALONE) -> None:
        if peers.size == 1 and distributed.is_initialized():
            raise TrainingError(
                "this process already trains with torch.distributed; close that engine first, "
                "or train in a process of its own"
            )
        self._model = model
        self._limit = training.gradient_clip
        self._pull = ProximalPull(model, mu=training.proximal_mu)
        self._optimiser = adamw(model, training)
        self._peers = peers
        device = next(model.parameters()).device
        if peers.size > 1:
            self._engine = initialise(model, self._optimiser, config_of(training))
            return
        with _lone_rank(device):
            try:
                distributed.init_process_group(
                    "nccl" if device.type == "cuda" else "gloo",
                    store=distributed.HashStore(),  # type: ignore[attr-defined]
                    rank=0,
                    world_size=1,
                )
                self._engine = initialise(model, self._optimiser, config_of(training))
            except BaseException:
                _leave_group()
                raise

    def step(self, parts: Sequence[LossFunction]) -> StepOutcome:
        """Differentiate the sum of the losses, pull, clip, and update the weights if finite."""
        losses = []
        # Gradients are exchanged once, when all parts are in; alone, that would only copy them.
        with self._engine.no_sync():
            for loss_of in parts:
                loss = loss_of(self._engine)
                # DeepSpeed takes the mean over the processes; theirs is to be the sum.
                self._engine.backward(loss * self._peers.size)
                losses.append(loss.detach())
        return self._update(torch.stack(losses).sum())

    def step_with(self, gradient: Sequence[Tensor], *, loss: float) -> StepOutcome:
        """Take each process's part of a gradient, pull, clip, and update the weights if finite."""
        for weight, part in zip(self._model.parameters(), gradient, strict=True):
            weight.grad = part.mul_(self._peers.size)  # for the mean over the processes
        outcome = self._update(loss)
        self._model.zero_grad()
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

    def _update(self, loss: Tensor | float) -> StepOutcome:
        """Update by the weights' gradients, of which each process has its part."""
        if self._peers.size > 1:
            self._engine.allreduce_gradients()
        self._pull.add_to_gradient()
        norm = clip_gradient(self._model, self._limit)
        (loss_sum,) = self._peers.sum([float(loss)])
        outcome = StepOutcome(loss=loss_sum, gradient_norm=norm)
        if outcome.taken:
            self._engine.step()
        else:
            self._model.zero_grad()
        return outcome

    def close(self) -> None:
        """Take DeepSpeed off the model; a process alone leaves its group."""
        self._engine.destroy()
        if self._peers.size == 1:
            _leave_group()


def initialise(
    model: nn.Module, optimiser: torch.optim.Optimizer, config: dict[str, object]
) -> deepspeed.DeepSpeedEngine:
    """Put DeepSpeed on a model where it lies, and not on the best device that DeepSpeed finds."""
    _select_accelerator(next(model.parameters()).device)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimiser, config=config)
    return engine


def config_of(training: TrainingConfig, **zero: object) -> dict[str, object]:
    """Return DeepSpeed's configuration; ``zero`` are options of ``zero_optimization``."""
    return {
        "train_micro_batch_size_per_gpu": training.batch_size,
        "gradient_accumulation_steps": 1,  # one step() takes in all of a batch's parts
        "zero_optimization": {"stage": 0, **zero},
        "gradient_clipping": 0.0,  # done by clip_gradient; unsaid, DeepSpeed would clip at 1
        "steps_per_print": None,
    }


def _select_accelerator(device: torch.device) -> None:
    if ds_accelerator.get_accelerator().device_name() == device.type:
        return
    if device.type == "cuda":
        from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator as Accelerator
    else:
        from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator as Accelerator
    ds_accelerator.set_accelerator(Accelerator())


@contextmanager
def _lone_rank(device: torch.device) -> Iterator[None]:
    """Hide the launcher's environment: this process is rank 0 of 1, on loopback only."""
    alone = {
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": str(device.index or 0),
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    before = {name: os.environ.get(name) for name in alone}
    os.environ.update(alone)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _leave_group() -> None:
    if distributed.is_initialized():
        if ds_comm.is_initialized():
            ds_comm.destroy_process_group()
        else:
            distributed.destroy_process_group()
