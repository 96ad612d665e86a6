"""The verdict on a clip: usable, for a person to decide, or not to be used, and why.

Reasons are phrases of ours, without any value of the file. Each says what is the matter and,
where a rule of the site decided, which one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from feat_fed.config.site import RulesConfig
from feat_fed.data.quality.look import Look
from feat_fed.data.reading.clip import ClipInfo

Outcome = Literal["usable", "review", "excluded"]

STILL = "a single picture, not a cine"
MODALITY = "of a modality that rules.modalities does not name"
TOO_SHORT = "fewer frames than rules.min_frames"
DARK = "black: more of it is dark than rules.max_dark_share allows"
STATIC = "static: it moves less than rules.min_motion"
OVERLAID = "text or marks found on the picture; rules.overlays excludes such clips"
SAYS_BURNED_IN = "the file says that text is burned in; look at the sheet, then approve or reject"
FOUND_TEXT = "text or marks found on the picture; look at the sheet, then approve or reject"


@dataclass(frozen=True)
class Verdict:
    """What becomes of a clip; ``reason`` is empty for a usable one."""

    outcome: Outcome
    reason: str = ""


def judge(info: ClipInfo, look: Look, rules: RulesConfig) -> Verdict:
    """Apply a site's rules, the plainest first.

    BurnedInAnnotation (PS3.3 C.7.6.1.1.1) counts when it says YES; NO and silence are not
    believed, for devices write them over pictures full of text: the pixels decide.
    """
    excluded = (
        (look.num_frames < 2, STILL),
        (not _wanted(info.modality, rules), MODALITY),
        (look.num_frames < rules.min_frames, TOO_SHORT),
        (look.dark_share > rules.max_dark_share, DARK),
        (look.motion < rules.min_motion, STATIC),
        (bool(look.overlays) and rules.overlays == "exclude", OVERLAID),
    )
    for applies, reason in excluded:
        if applies:
            return Verdict("excluded", reason)
    if rules.review == "required":
        if info.burned_in:
            return Verdict("review", SAYS_BURNED_IN)
        if look.overlays:
            return Verdict("review", FOUND_TEXT)
    return Verdict("usable")


def _wanted(modality: str | None, rules: RulesConfig) -> bool:
    """Tell whether the modality is asked for; a file that has none (no DICOM) is."""
    return rules.modalities is None or modality is None or modality in rules.modalities
