"""FedProx's pull towards the weights that a round started from (arXiv 1812.06127)."""

from __future__ import annotations

import torch
from torch import nn


class ProximalPull:
    """The gradient of mu/2 ||w - w_0||^2 (equation 2), w_0 being the weights when this was made.

    Its value is no part of the reported loss, so that losses compare across mu.

    Parameters
    ----------
    mu
        0 keeps no copy of the weights and does nothing.
    """

    def __init__(self, model: nn.Module, *, mu: float) -> None:
        self._mu = mu
        self._weights = list(model.parameters()) if mu else []
        self._anchors = [each.detach().clone() for each in self._weights]

    @torch.no_grad()
    def add_to_gradient(self) -> None:
        """Add mu (w - w_0) to the gradient of every weight that has one."""
        for weight, anchor in zip(self._weights, self._anchors, strict=True):
            if weight.grad is not None:
                weight.grad.add_(weight - anchor, alpha=self._mu)
