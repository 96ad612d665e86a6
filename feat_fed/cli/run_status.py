"""Where a study stands at its coordinator: what `feat-fed status` tells of a run."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import BaseModel

from feat_fed.audit import FOLDER, lines
from feat_fed.cli.central_lines import central_lines
from feat_fed.errors import RunError
from feat_fed.measured import Evaluation
from feat_fed.metrics import Metric
from feat_fed.report.comparisons import comparable
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.live import StudyLive
from feat_fed.report.records import CentralSpending, RoundRecord
from feat_fed.report.run_store import RunStore, is_locked
from feat_fed.report.units import format_bytes, format_duration, format_metric, format_time

_HEARD_OF = ("site-connected", "site-left", "reply-received")
_SUPERLINK = "feat_fed_server.superlink"


class SiteState(BaseModel):
    """A site as the coordinator knows it; times are ISO 8601."""

    site: str
    connected: bool
    last_seen: str | None
    version: str | None
    clips: int | None
    """For training, as it reported them last."""
    last_round: int | None
    last_outcome: str | None
    last_reason: str
    waits_for: str
    """Why the study goes on without it for now: its own limits."""
    standing: str | None
    """``admitted``, ``quarantined`` or ``excluded``; None where nobody asked."""
    rounds_ok: int
    bytes_down: int
    bytes_up: int


class Processes(BaseModel):
    """Which of the server's processes are there."""

    server: bool
    superlink: bool
    executor: bool
    round_loop: bool


class RunStatus(BaseModel):
    """A run at one moment."""

    run: Path
    study: str
    study_id: str
    state: str
    message: str
    rounds_done: int
    rounds_wanted: int
    round: int
    phase: str | None
    """Of the round that is under way; None where nothing is."""
    deadline: str | None
    replied: list[str]
    train_loss: float | None
    heldout_loss: float | None
    final_heldout_loss: float | None
    last_round_sec: float | None
    bytes_down: int
    bytes_up: int
    sites: list[SiteState]
    central: CentralSpending | None
    """What was spent so far, where the study has central privacy."""
    evaluation: Evaluation | None
    """Of the round that is furthest, by the protocol that was used last."""
    processes: Processes


def newest_run(runs: Path) -> Path:
    """Return the run below a folder that was written to last.

    Raises
    ------
    RunError
        If there is none.
    """
    found = [each.parent for each in runs.glob("*/summary.json")]
    if not found:
        raise RunError(
            f"there is no run below {runs}; name one with --run, or their folder with --runs"
        )
    return max(found, key=lambda each: (each / "summary.json").stat().st_mtime)


def run_status(store: RunStore, standing: Mapping[str, str] | None = None) -> RunStatus:
    """Find out where a run stands; changes nothing.

    Parameters
    ----------
    standing
        Of each site with the coordinator, where that is of interest.
    """
    summary, records = store.summary(), store.rounds()
    processes = _processes(store.root)
    live = StudyLive.read(store.live) if processes.round_loop or processes.server else None
    last = records[-1] if records else None
    known = live or StudyLive.read(store.live)
    seen = _seen(store.root)
    sites = _sites(records, known, alive=live is not None, seen=seen, standing=standing or {})
    privacy = store.study.privacy
    if privacy.patient or privacy.central:  # a site that does not tell its number reports 1
        sites = [e.model_copy(update={"clips": None}) if e.clips == 1 else e for e in sites]
    return RunStatus(
        run=store.root,
        study=summary.study,
        study_id=summary.study_id,
        state=summary.state if summary.state != "running" or processes.server else "interrupted",
        message=summary.message,
        rounds_done=summary.rounds_done,
        rounds_wanted=summary.rounds_wanted,
        round=live.round if live else summary.rounds_done,
        phase=live.phase if live else None,
        deadline=_iso(live.deadline) if live and live.deadline else None,
        replied=list(live.replied) if live else [],
        train_loss=last.train_loss if last else None,
        heldout_loss=last.heldout_loss if last else None,
        final_heldout_loss=summary.final_heldout_loss,
        last_round_sec=last.seconds if last else None,
        bytes_down=sum(each.bytes_down for each in sites),
        bytes_up=sum(each.bytes_up for each in sites),
        sites=sites,
        central=summary.central,
        evaluation=_evaluation(store.root),
        processes=processes,
    )


def run_lines(status: RunStatus) -> list[str]:
    """Return a status for people."""
    state = f"{status.state}: {status.message}" if status.message else status.state
    lines = [
        f"{status.study} ({status.run}): {state}",
        f"rounds: {status.rounds_done} of {status.rounds_wanted} done" + _last_round(status),
    ]
    if status.phase is not None:
        lines.append(f"now: round {status.round}: {status.phase}{_until(status.deadline)}")
    lines.append(f"held-out loss before the last round: {_loss(status.heldout_loss)}")
    if status.final_heldout_loss is not None:
        lines.append(f"final held-out loss: {_loss(status.final_heldout_loss)}")
    lines.append(
        f"weights moved: {format_bytes(status.bytes_down)} to sites, "
        f"{format_bytes(status.bytes_up)} from them"
    )
    lines += _evaluation_lines(status.evaluation) if status.evaluation else ()
    lines.append("sites:" if status.sites else "sites: none yet")
    lines += [f"  {_site_line(each, status)}" for each in status.sites]
    lines += central_lines(status.central) if status.central else ()
    there = [name.replace("_", " ") for name, is_there in status.processes if is_there]
    lines.append(f"processes: {', '.join(there) or 'none'}")
    return lines


def run_metrics(status: RunStatus) -> list[Metric]:
    """Return a status as figures for Prometheus."""
    rounds = Metric("feat_fed_rounds_done", "Rounds completed.").add(status.rounds_done)
    wanted = Metric("feat_fed_rounds_wanted", "Rounds of the study.").add(status.rounds_wanted)
    running = Metric("feat_fed_running", "Whether the study goes on.")
    running.add(float(status.state == "running"))
    loss = Metric("feat_fed_loss", "Of the last completed round, weighted over sites.")
    loss.add(status.train_loss, split="train").add(status.heldout_loss, split="heldout")
    seconds = Metric("feat_fed_last_round_seconds", "That the last completed round took.")
    seconds.add(status.last_round_sec)
    up = Metric("feat_fed_site_connected", "Whether the site is connected.")
    ok = Metric("feat_fed_site_rounds_ok_total", "Rounds with an update of the site.", "counter")
    moved = Metric("feat_fed_site_weights_bytes_total", "Weights moved, so far.", "counter")
    for site in status.sites:
        up.add(float(site.connected), site=site.site)
        ok.add(site.rounds_ok, site=site.site)
        moved.add(site.bytes_down, site=site.site, direction="down")
        moved.add(site.bytes_up, site=site.site, direction="up")
    epsilon = Metric("feat_fed_central_epsilon", "Spent of each hospital so far, bounded by RDP.")
    for each in status.central.sites if status.central else ():
        epsilon.add(each.rdp, site=each.site)
    quality = Metric("feat_fed_quality", "Metric of the last round's model that was measured.")
    measured = Metric("feat_fed_quality_round", "Round whose model was measured last.")
    if (last := status.evaluation) is not None:
        measured.add(last.round)
        for value in last.metrics:
            quality.add(value.value, metric=value.metric, protocol=last.protocol)
    return [rounds, wanted, running, loss, seconds, up, ok, moved, epsilon, quality, measured]


def _sites(
    records: Sequence[RoundRecord],
    live: StudyLive | None,
    *,
    alive: bool,
    seen: Mapping[str, str],
    standing: Mapping[str, str],
) -> list[SiteState]:
    connected = set(live.connected) if live and alive else set()
    told = {each.site: (record, each) for record in records for each in record.sites}
    good = {each.site: each for record in records for each in record.sites if each.status == "ok"}
    rounds_ok = Counter(e.site for r in records for e in r.sites if e.status == "ok")
    names = {*told, *standing, *(live.connected + live.missing if live else ())}
    states = []
    for name in sorted(names):
        record, last = told.get(name, (None, None))
        states.append(
            SiteState(
                site=name,
                connected=name in connected,
                last_seen=seen.get(name),
                version=good[name].version or None if name in good else None,
                clips=good[name].examples if name in good else None,
                last_round=record.round if record else None,
                last_outcome=last.status if last else None,
                last_reason=last.reason if last else "",
                waits_for=live.declined.get(name, "") if live and alive else "",
                standing=standing.get(name),
                rounds_ok=rounds_ok[name],
                bytes_down=sum(e.bytes_down for r in records for e in r.sites if e.site == name),
                bytes_up=sum(e.bytes_up for r in records for e in r.sites if e.site == name),
            )
        )
    return states


def _seen(root: Path) -> dict[str, str]:
    """Return when each site was last heard of, by the end of the audit log."""
    return {
        str(line.event["site"]): f"{line.at[:19]}+00:00"
        for line in lines(root / FOLDER, last_files=2)
        if line.event.get("kind") in _HEARD_OF
    }


def _evaluation(root: Path) -> Evaluation | None:
    with contextlib.suppress(RunError):
        found = comparable(EvaluationFolder.of_run(root).evaluations())
        return found[0].last if found else None
    return None


def _evaluation_lines(last: Evaluation) -> list[str]:
    """Return what the metrics were, the one whose direction is known first."""
    lines = [
        f"quality after round {last.round}, by {last.protocol} on {last.benchmark} "
        f"({format_time(last.at)}):"
    ]
    for each in sorted(last.metrics, key=lambda metric: metric.better == "neither"):
        low, high = (None if e is None else format_metric(e) for e in (each.low, each.high))
        interval = f" (95 %: {low} to {high})" if low and high else ""
        better = "" if each.better == "neither" else f", {each.better} is better"
        warning = f"; {each.warning}" if each.warning else ""
        lines.append(f"  {each.metric} {format_metric(each.value)}{interval}{better}{warning}")
    return lines


def _processes(root: Path) -> Processes:
    """Find the server's processes by what they hold and by their command lines."""
    secret = (root / "flower" / "executor.secret").resolve()
    found = [each for each in psutil.process_iter(["cmdline"]) if _names(each, secret)]
    superlinks = [each for each in found if _SUPERLINK in each.info["cmdline"]]
    return Processes(
        server=is_locked(root),
        superlink=bool(superlinks),
        executor=len(found) > len(superlinks),
        round_loop=is_locked(root, "rounds"),
    )


def _names(process: psutil.Process, file: Path) -> bool:
    given = [each for each in process.info["cmdline"] or () if each.endswith(file.name)]
    with contextlib.suppress(psutil.Error, OSError):
        return any(Path(process.cwd(), each).resolve() == file for each in given)
    return False


def _last_round(status: RunStatus) -> str:
    if status.last_round_sec is None:
        return ""
    took = format_duration(status.last_round_sec)
    return f", the last in {took} with a train loss of {_loss(status.train_loss)}"


def _site_line(site: SiteState, status: RunStatus) -> str:
    if site.connected:
        here = "connected"
    else:
        seen = f"last seen {site.last_seen}" if site.last_seen else "never seen"
        here = seen if status.phase is None else f"not here, {seen}"  # None: nobody looks
    parts = [f"{site.site}: {here}"]
    if site.version:
        parts.append(f"feat-fed {site.version}")
    if site.clips:
        parts.append(f"{site.clips} clips")
    if site.last_outcome:
        why = f" ({site.last_reason})" if site.last_reason else ""
        parts.append(f"round {site.last_round} {site.last_outcome}{why}")
    if site.standing not in (None, "admitted"):
        parts.append(f"{site.standing} (`feat-fed study sites` says why)")
    if site.waits_for:
        parts.append(site.waits_for)
    elif site.site in status.replied:
        parts.append("replied")
    return ", ".join(parts)


def _until(deadline: str | None) -> str:
    if deadline is None:
        return ""
    left_sec = datetime.fromisoformat(deadline).timestamp() - time.time()
    return f", {format_duration(left_sec)} left" if left_sec > 0 else ", its time is up"


def _loss(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
