"""A site's own bound on its update, in a study with central privacy.

The server clips again. What a site clips itself it need not trust the server with, and where the
server sees sums only, nobody else could.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from feat_fed.config import SiteConfig
from feat_fed.errors import ProtocolError
from feat_fed.privacy.updates import clipped_update
from feat_fed.protocol import Assignment, Report


def clip_own(
    assignment: Assignment,
    site: SiteConfig,
    report: Report,
    trained: Mapping[str, Tensor],
    received: Mapping[str, Tensor],
) -> tuple[Report, dict[str, Tensor]]:
    """Return what is reported and sent of a round: as it is, or within the assignment's bound.

    Raises
    ------
    ProtocolError
        If the study clips updates, and the assignment says no bound.
    TrainingError
        If a weight is not finite.
    """
    if trained and assignment.clip_norm is None and assignment.study.privacy.central is not None:
        raise ProtocolError("the study clips updates, and the assignment says not to which length")
    if assignment.clip_norm is None or not trained:
        return report, dict(trained)
    clipped, within = clipped_update(trained, received, clip_norm=assignment.clip_norm)
    told = {
        "within_clip_norm": within if _is_counted(assignment) else None,
        "patients_only_here": site.privacy.patients_only_here,
    }
    return report.model_copy(update=told), clipped


def _is_counted(assignment: Assignment) -> bool:
    """Whether the study needs to know how many updates are within the bound."""
    central = assignment.study.privacy.central
    return central is not None and central.clipping == "adaptive"
