"""Whether generated clips are copies of training clips, and what is released if they are.

The similarity of a generated clip to what a model was trained on is the largest correlation of its
latent with any training window, over all times and mirror images (:mod:`.search`). What is large
is told by patients who were held out: the same search with their clips gives the similarity of
clips that cannot have been learnt (:mod:`.calibration`). A site tells of it what its policy allows
(:mod:`.messages`), and what all sites told decides a release (:mod:`.release`).

Correlation of latents with a threshold of held-out neighbours is how Dar et al. find copies of
patients ("Unconditional latent diffusion models memorize patient imaging data", arXiv 2402.01054;
they embed by a contrastive network first). That held-out neighbours have to set the scale, since a
bare distance takes clips that resemble everything for copies, is the point of the relative distance
of Carlini et al. ("Extracting training data from diffusion models", arXiv 2301.13188, section 4.2).

Everything here is pure: arrays and models, no files, no Flower.
"""

from feat_fed.memorisation.calibration import COPY, LEVEL, Calibration, chance_of, is_near
from feat_fed.memorisation.messages import (
    MAX_CLIPS,
    GeneratedClips,
    NearestClips,
    calibrated_by,
    coarse,
)
from feat_fed.memorisation.release import ClipVerdict, Release, SiteAnswer, decide
from feat_fed.memorisation.search import Found, TrainingClip, nearest

__all__ = [
    "COPY",
    "LEVEL",
    "MAX_CLIPS",
    "Calibration",
    "ClipVerdict",
    "Found",
    "GeneratedClips",
    "NearestClips",
    "Release",
    "SiteAnswer",
    "TrainingClip",
    "calibrated_by",
    "chance_of",
    "coarse",
    "decide",
    "is_near",
    "nearest",
]
