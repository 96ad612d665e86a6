"""What an update must be like before it may touch the model.

Its form, names, shapes, types and finiteness are checked where it is decoded. Here: first each
update alone, against the weights that its site started from; then, when a round is over, the
updates among themselves. None of this finds an update that is hostile and looks like the others;
robust strategies bound what such a one can do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from feat_fed.config import ScreeningConfig, TrainingConfig
from feat_fed.errors import ProtocolError, RefusalCode

MIN_OTHERS = 3
"""Norms without which there is nothing to compare with."""
_MIN_SPREAD = 0.4
"""Of the logarithms: sites that are much alike make no outlier of one that is a little unlike."""
_ROUNDING = 0.01
"""Of a tensor's largest weight: what the form in which weights travel may add to a move."""


_FINITE = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Peer:
    """What the other updates of a round are compared with."""

    log_norm: float
    """:func:`log_norm` of the update."""
    weight: float
    """In the strategy's mean."""


def screen_alone(
    weights: Mapping[str, Tensor],
    received: Mapping[str, Tensor],
    *,
    screening: ScreeningConfig,
    training: TrainingConfig,
    rounds: int = 1,
) -> float:
    """Return the L2 norm of an update, floats only, in float64.

    Parameters
    ----------
    weights
        Of the site, with the names, shapes and types of ``received``, all finite.
    received
        What the site started from.
    rounds
        Whose moves the update may hold: more than one where parts of earlier ones were kept back.

    Raises
    ------
    ProtocolError
        If all weights are zero, none has changed, or one has moved too far.
    """
    most = _FINITE
    if screening.max_move is not None:
        most = screening.max_move * training.learning_rate * training.local_steps * rounds
    square, any_weight = 0.0, False
    for name, before in received.items():
        if not before.is_floating_point() or before.numel() == 0:
            continue
        after = weights[name]
        any_weight = any_weight or bool(torch.any(after))
        # Half types round a small move away.
        exact = torch.promote_types(before.dtype, torch.float32)
        move = after.to(exact) - before.to(exact)
        farthest = _largest(move)
        if not farthest <= most + _ROUNDING * _largest(before):
            raise ProtocolError(
                f"{name} has moved by {farthest:.3g}, further than the round's steps can "
                f"move a weight ({most:.3g})",
                refusal="moved",
            )
        square += float(torch.linalg.vector_norm(move, dtype=torch.float64)) ** 2
    if not any_weight:
        raise ProtocolError("all weights are zero", refusal="zero")
    if square == 0.0:
        raise ProtocolError("the weights are those that the round began with", refusal="unchanged")
    return math.sqrt(square)


def log_norm(norm: float, steps: int) -> float:
    """Return the logarithm of an update's norm over the root of its steps.

    A random walk grows with the root of its steps, so that a short round is comparable.
    """
    return math.log(norm) - 0.5 * math.log(max(1, steps))


def screen_together(
    peers: Mapping[str, Peer], *, screening: ScreeningConfig, past: Sequence[float] = ()
) -> dict[str, ProtocolError]:
    """Return why updates of a round are refused beside the others, by site.

    Parameters
    ----------
    past
        :func:`log_norm` of updates that were accepted in earlier rounds; they stand in where a
        round has too few others.
    """
    refused: dict[str, ProtocolError] = {}
    if screening.max_norm_z is not None:
        for site, peer in peers.items():
            others = [each.log_norm for name, each in peers.items() if name != site]
            if len(others) < MIN_OTHERS:
                others += past
            if len(others) >= MIN_OTHERS:
                z = robust_z(peer.log_norm, others)
                if z > screening.max_norm_z:
                    refused[site] = ProtocolError(
                        f"the update's norm is {z:.1f} robust standard deviations above the "
                        f"others' (at most {screening.max_norm_z:g})",
                        refusal="norm",
                    )
    rest = {site: peer.weight for site, peer in peers.items() if site not in refused}
    while screening.max_weight_share is not None and len(rest) > 1:
        heaviest = max(rest, key=lambda site: (rest[site], site))
        share = rest.pop(heaviest) / max(1.0, sum(rest.values()) + peers[heaviest].weight)
        if share <= screening.max_weight_share:
            break
        refused[heaviest] = ProtocolError(
            f"{100 * share:.3g} % of the weight in the mean "
            f"(at most {100 * screening.max_weight_share:g} %)",
            refusal="share",
        )
    return refused


def robust_z(value: float, others: Sequence[float]) -> float:
    """Return how far a value is above the others' median, in robust standard deviations.

    The deviation is 1.4826 times the median absolute deviation (Iglewicz and Hoaglin, How to
    Detect and Handle Outliers, 1993), with a floor.
    """
    middle = median(others)
    spread = 1.4826 * median(abs(each - middle) for each in others)
    return (value - middle) / max(spread, _MIN_SPREAD)


def _largest(tensor: Tensor) -> float:
    low, high = torch.aminmax(tensor)
    return max(-float(low), float(high))


def refused_again(digest: str, *, earlier: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Turn away an update that was there before.

    Parameters
    ----------
    earlier, now
        Sites by the digest of what they sent in the last rounds, and, other sites, in this one.

    Raises
    ------
    ProtocolError
        If it was.
    """
    codes: tuple[tuple[Mapping[str, str], str, RefusalCode], ...] = (
        (now, "the very update that {site} sent", "copy"),
        (earlier, "the very update that {site} sent for an earlier round", "replay"),
    )
    for sent, what, code in codes:
        if digest in sent:
            raise ProtocolError(what.format(site=sent[digest]), refusal=code)
