"""What `feat-fed release` says at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from feat_fed.memorisation import Release, SiteAnswer
    from feat_fed_server.release_folder import ReleaseFolder

_WHY = {
    "near": "a clip is nearer to a hospital's training clips than its held-out patients' are",
    "incomplete": "not every hospital that took part has looked for copies",
}


def release_lines(folder: ReleaseFolder, decision: Release) -> list[str]:
    """Return what each hospital told, and what came of it."""
    lines = [f"{each.site}: {_site_line(each)}" for each in decision.sites]
    let_through = len(decision.clips) - decision.withheld
    where = f": {folder.samples}" if let_through else ""
    lines.append(f"clips:  {let_through} of {len(decision.clips)} let through{where}")
    match decision.model:
        case "released":
            lines.append(f"model:  {folder.model}")
        case "released-anyway":
            lines.append(f"model:  {folder.model}, in spite of the gate; the audit log says why")
        case _:
            lines.append(f"model:  kept back: {_WHY[decision.gate]}")
            lines.append('to release it all the same: --release-anyway "the reason", logged')
    return [*lines, f"report: {folder.decision}"]


def _site_line(answer: SiteAnswer) -> str:
    told = answer.nearest
    if told is None:
        return f"{answer.status}, {answer.reason}"
    parts = [f"{sum(told.near)} of {len(told.near)} clips are too near to its own"]
    if told.scores is not None:
        parts.append(f"largest similarity {max(told.scores):.2f}")
    if told.threshold is not None:
        parts.append(f"threshold {told.threshold:.2f}")
    if answer.by_chance is not None and any(told.near):
        parts.append(f"as many by chance: {answer.by_chance:.2g}")
    if told.calibrated == "few":
        parts.append("fewer than 19 patients held out, so more are withheld by chance")
    if told.calibrated == "none":
        parts.append("no patient held out to compare with: not cleared")
    return "; ".join(parts)
