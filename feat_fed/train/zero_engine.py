"""DeepSpeed's ZeRO 1 to 3 on several processes (Rajbhandari et al., arXiv 1910.02054).

In float32 with torch's AdamW. What is sharded lies in flat tensors: of each of them a process
holds a part, and knows which range of which weight is where in it. Between backward pass and
update the gradient lies in the same order. So clipping, FedProx's pull, and all that goes in
and out (weights, the optimiser's state) are the same few lines for every stage, and what
comes out is whole and knows nothing of the number of processes.

Legend: flat tensors are one-dimensional; a range is of a weight's flattened elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from feat_fed.config import TrainingConfig
from feat_fed.errors import CheckpointError
from feat_fed.train.deepspeed_engine import config_of, initialise
from feat_fed.train.engine import LossFunction, StepOutcome, adamw, set_learning_rate
from feat_fed.train.optimiser_state import misfit
from feat_fed.train.peers import Peers
from feat_fed.train.weights import check_weights, load_weights, portable, weights_of

_BUCKET_ELEMENTS = 2**25
"""Exchanged at once: 128 MiB, which the default, 2 GB, would take from a small GPU."""

_MOMENTS = ("exp_avg", "exp_avg_sq")
_EPSILON = 1e-6
"""Added to the norm, as :func:`torch.nn.utils.clip_grad_norm_` does."""


@dataclass(frozen=True)
class _Piece:
    """A range of a weight that this process holds, and where it lies."""

    weight: str
    start: int
    length: int
    flat: int
    offset: int

    def of(self, flats: Sequence[Tensor]) -> Tensor:
        """Return this range of flat tensors that are laid out like the weights'."""
        return flats[self.flat].narrow(0, self.offset, self.length)


class ZeroEngine:
    """An :class:`~feat_fed.train.engine.Engine` that shares out what it holds among ``peers``."""

    def __init__(
        self, model: nn.Module, training: TrainingConfig, peers: Peers, *, stage: int
    ) -> None:
        self._model = model
        self._peers = peers
        self._stage = stage
        self._limit = training.gradient_clip
        self._mu = training.proximal_mu
        # Stage 3 takes the weights out of the model, and with them their shapes.
        self._like = {
            name: torch.empty_like(each, device="meta") for name, each in model.state_dict().items()
        }
        self._shapes = {name: each.shape for name, each in model.named_parameters()}
        self._optimiser = adamw(model, training)
        bucket = min(_BUCKET_ELEMENTS, 2 * sum(each.numel() for each in model.parameters()))
        options = {"stage": stage, "reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
        self._engine = initialise(model, self._optimiser, config_of(training, **options))
        self._zero: Any = self._engine.optimizer
        self._flats: list[Tensor]
        if stage == 3:
            self._flats = self._zero.fp32_partitioned_groups_flat
        else:
            self._flats = self._zero.single_partition_of_fp32_groups
        find = self._in_stage_3 if stage == 3 else self._in_stages_1_and_2
        found = [find(weight, name) for name, weight in model.named_parameters()]
        self._pieces = [each for each in found if each is not None]
        if stage == 3:
            self._clear_padding()
        self._anchors = [each.detach().clone() for each in self._flats] if self._mu else []

    def step(self, parts: Sequence[LossFunction]) -> StepOutcome:
        """Differentiate the sum of the losses, pull, clip, and update the weights if finite."""
        losses = []
        for number, loss_of in enumerate(parts, start=1):
            self._engine.set_gradient_accumulation_boundary(number == len(parts))
            loss = loss_of(self._engine)
            # DeepSpeed takes the mean over the processes; theirs is to be the sum.
            self._engine.backward(loss * self._peers.size)
            losses.append(loss.detach())
        return self._update(torch.stack(losses).sum())

    def step_with(self, gradient: Sequence[Tensor], *, loss: float) -> StepOutcome:
        """Take each process's part of a gradient, pull, clip, and update the weights if finite."""
        weights = zip(self._model.parameters(), gradient, strict=True)
        # DeepSpeed shares out what a backward pass gives: here that of a plane with this slope.
        plane = torch.stack([torch.dot(each.flatten(), part.flatten()) for each, part in weights])
        self._engine.set_gradient_accumulation_boundary(True)
        self._engine.backward(plane.sum() * self._peers.size)
        return self._update(loss)

    def _update(self, loss: Tensor | float) -> StepOutcome:
        """Update by the mean over the processes, as DeepSpeed has shared it out."""
        self._add_pull()
        gradients = [each for group in self._gradients() for each in group]
        square = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
        loss_sum, square_sum = self._peers.sum([float(loss), float(square)])
        outcome = StepOutcome(loss=loss_sum, gradient_norm=math.sqrt(square_sum))
        if not outcome.taken:
            # A gradient that is not finite makes DeepSpeed discard the step, on all processes.
            torch._foreach_mul_(gradients, math.nan)
        elif self._limit is not None and outcome.gradient_norm > self._limit:
            torch._foreach_mul_(gradients, self._limit / (outcome.gradient_norm + _EPSILON))
        self._engine.step()
        if not outcome.taken:
            # Stage 3 keeps its buffers, and never writes what rounds them up to equal lengths.
            torch._foreach_zero_(gradients)
        return outcome

    def set_learning_rate(self, learning_rate: float) -> None:
        """Use this learning rate from the next step on."""
        set_learning_rate(self._optimiser, learning_rate)

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the weights on the CPU, floats as float32."""
        if self._stage < 3:
            return weights_of(self._model)
        buffers = {name: each for name, each in self._model.state_dict().items()}
        return portable(buffers | self._whole(self._flats))

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from these weights; the pull of FedProx stays towards the first ones."""
        check_weights(weights, self._like)
        if self._stage < 3:
            load_weights(self._model, weights)
            self._zero.refresh_fp32_params()
            return
        with torch.no_grad():
            self._scatter(weights, self._flats)
        # As after an update: the parts that the model holds, and the small weights whole.
        self._zero._partition_all_parameters()
        for place in range(len(self._flats)):
            self._zero._reassign_or_swap_out_partitioned_parameters(place)
        if small := self._zero.persistent_parameters:
            small[0].all_gather(small)

    def optimiser_state(self) -> dict[str, Tensor]:
        """Return copies of AdamW's state on the CPU, whole and the same on every process."""
        states = [self._optimiser.state.get(each, {}) for each in self._flats]
        if not all(states):
            return {}
        state = {f"step/{name}": states[0]["step"].cpu().clone() for name in self._shapes}
        for key in _MOMENTS:
            whole = self._whole([each[key] for each in states])
            state |= {f"{key}/{name}": each.cpu() for name, each in whole.items()}
        return state

    def load_optimiser_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on with the state of an earlier engine.

        Raises
        ------
        CheckpointError
            If it is of another model, or its weights have taken different numbers of steps.
        """
        if fault := misfit(state, self._shapes):
            raise CheckpointError(f"the optimiser's state is of another model: {fault}")
        steps = {float(each) for name, each in state.items() if name.startswith("step/")}
        if len(steps) > 1:
            raise CheckpointError(
                f"weights have taken from {min(steps):.0f} to {max(steps):.0f} steps, and ZeRO "
                "counts for all of them; set compute.zero_stage: 0 in the site's file"
            )
        for flat in self._flats:
            step = torch.tensor(steps.copy().pop(), dtype=torch.float32, device=flat.device)
            moments = {key: torch.zeros_like(flat) for key in _MOMENTS}
            self._optimiser.state[flat] = {"step": step, **moments}
        for key in _MOMENTS:
            moments_of = {name: state.get(f"{key}/{name}") for name in self._shapes}
            self._scatter(moments_of, [self._optimiser.state[each][key] for each in self._flats])

    def close(self) -> None:
        """Take DeepSpeed off the model; after stage 3 the model is of no further use."""
        self._engine.destroy()

    def _gradients(self) -> list[list[Tensor]]:
        """Return the gradient of each flat tensor, in parts that lie one after the other."""
        return [self._zero.averaged_gradients[place] for place in range(len(self._flats))]

    @torch.no_grad()
    def _add_pull(self) -> None:
        """Add FedProx's mu (w - w_0) to the gradient (arXiv 1812.06127, equation 2)."""
        if not self._anchors:
            return
        for flat, anchor, parts in zip(self._flats, self._anchors, self._gradients(), strict=True):
            offset = 0
            for part in parts:
                here = slice(offset, offset + part.numel())
                pull = (flat[here] - anchor[here]).view_as(part)
                part.add_(pull, alpha=self._mu)
                offset = here.stop

    def _whole(self, flats: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return whole tensors in the weights' shapes, each put together from all processes."""
        sizes = [math.prod(shape) for shape in self._shapes.values()]
        whole = torch.zeros(sum(sizes), dtype=torch.float32, device=self._flats[0].device)
        parts = dict(zip(self._shapes, torch.split(whole, sizes), strict=True))
        for piece in self._pieces:
            target = parts[piece.weight].narrow(0, piece.start, piece.length)
            target.copy_(piece.of(flats).detach())
        # Each bit is of one process and zero on the others, so that integers keep all of them.
        self._peers.add_up(whole.view(torch.int32))
        return {name: each.view(self._shapes[name]) for name, each in parts.items()}

    def _scatter(self, whole: Mapping[str, Tensor | None], flats: Sequence[Tensor]) -> None:
        """Copy this process's ranges of whole tensors, where there are any, into flat ones."""
        for piece in self._pieces:
            if (tensor := whole[piece.weight]) is not None:
                own = tensor.flatten().narrow(0, piece.start, piece.length)
                piece.of(flats).copy_(own)

    @torch.no_grad()
    def _clear_padding(self) -> None:
        """Make zero what rounds the parts up to equal lengths, and DeepSpeed leaves undefined."""
        real = [torch.zeros_like(each, dtype=torch.bool) for each in self._flats]
        for piece in self._pieces:
            piece.of(real).fill_(True)
        for flat, mask in zip(self._flats, real, strict=True):
            flat.masked_fill_(~mask, 0.0)

    def _in_stages_1_and_2(self, weight: nn.Parameter, name: str) -> _Piece | None:
        held: Any = vars(weight)["_hp_mapping"]
        if held is None:
            return None
        own, flat = held.lp_fragment_address, held.hp_fragment_address
        return _Piece(name, own.start, own.numel, held.param_group_index, flat.start)

    def _in_stage_3(self, weight: nn.Parameter, name: str) -> _Piece | None:
        flat, offset, length = self._zero.grad_position[self._zero.get_param_id(weight)]
        start = self._peers.rank * length
        length = min(length, math.prod(self._shapes[name]) - start)
        return _Piece(name, start, length, flat, offset) if length > 0 else None
