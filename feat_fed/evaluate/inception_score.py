"""The Inception Score: how sure a classifier is of each image, and how varied the classes are.

Legend: N images, C classes.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import log_softmax

from feat_fed.evaluate.frechet import checked_features


def inception_score(logits_NC: ArrayLike, *, splits: int = 10, seed: int | None = None) -> float:
    """Return exp of the mean KL divergence between p(y|x) and p(y), averaged over splits.

    Salimans et al., arXiv 1606.03498, Section 4. Between 1 and C; the higher, the better. It knows
    no real images.

    Parameters
    ----------
    logits_NC
        Before the softmax, without the last layer's bias in the reference networks.
    splits
        Parts of nearly equal size, each with a p(y) of its own; no more than N.
    seed
        Of a permutation before they are split (torch-fidelity's by default is 2020);
        ``None`` keeps the order, as StyleGAN-V does.

    Raises
    ------
    DataError
        When the logits are no (N, C), or not finite.
    """
    logits = checked_features(logits_NC, "logits")
    if seed is not None:
        logits = logits[np.random.RandomState(seed).permutation(len(logits))]
    log_p_NC = log_softmax(logits, axis=1)
    splits = min(splits, len(logits))
    bounds = [index * len(logits) // splits for index in range(splits + 1)]
    parts = [log_p_NC[start:stop] for start, stop in pairwise(bounds)]
    return float(np.mean([_score(part) for part in parts]))


def _score(log_p_NC: np.ndarray) -> float:
    p_NC = np.exp(log_p_NC)
    # A class that no image of the part has any probability of adds nothing, and has no logarithm.
    log_q_C = np.log(p_NC.mean(axis=0), where=p_NC.any(axis=0), out=np.zeros(p_NC.shape[1]))
    return float(np.exp((p_NC * (log_p_NC - log_q_C)).sum(axis=1).mean()))
