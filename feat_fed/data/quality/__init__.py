"""From frames to what they show: field, overlays, motion, fingerprint, and the verdict."""

from feat_fed.data.quality.clean import cleaned
from feat_fed.data.quality.fingerprint import bits_apart
from feat_fed.data.quality.look import QUALITY_VERSION, Look, look_at
from feat_fed.data.quality.rules import Verdict, judge
from feat_fed.data.quality.sheet import Sheet

__all__ = [
    "QUALITY_VERSION",
    "Look",
    "Sheet",
    "Verdict",
    "bits_apart",
    "cleaned",
    "judge",
    "look_at",
]
