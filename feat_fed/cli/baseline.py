"""``feat-fed simulate --baseline``: what the same training gives that is not federated."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum

from feat_fed.atomic import write_bytes_atomically
from feat_fed.cli.console import console, say
from feat_fed.config import LimitsConfig, SiteConfig, SitePrivacyConfig
from feat_fed.errors import ChildError, DataError, RunError
from feat_fed.processes import Child, ChildGroup
from feat_fed.report import RunStore
from feat_fed.report.baseline_folder import (
    CENTRALISED,
    FEDERATED,
    LOCAL_ONLY,
    BaselineFolder,
    HospitalFacts,
    mean_loss,
    read_scores,
    scores_of,
)
from feat_fed.report.run_store import lock_run

_LOOK_SEC = 0.5


class Baseline(StrEnum):
    """What a federated study is compared with."""

    CENTRALISED = CENTRALISED
    """One training on all hospitals' clips."""
    LOCAL_ONLY = LOCAL_ONLY
    """Each hospital's training on its own clips."""


def run_baselines(store: RunStore, sites: Sequence[SiteConfig], wanted: Sequence[Baseline]) -> None:
    """Do what is left of a complete run's baselines, and write its report with them.

    Each is a run of its own below ``RUN/baselines`` and a process of its own; as many go on at a
    time as the machine has cores for. What is stopped goes on at its round the next time.

    Raises
    ------
    ChildError
        If one fails; the others are done before.
    DataError
        If no hospital holds a patient out, or one has nothing to train on.
    RunError
        If the run is not complete, or another process is at its baselines.
    """
    from feat_fed.report import write_report

    if store.summary().state != "complete":
        raise RunError(f"{store.root} is not complete: baselines come after its last round")
    with lock_run(store.root, "baselines"):
        jobs = _left(store, [site.name for site in sites], wanted)
        if not jobs:
            say("the baselines are complete")
            return
        with console.status("baselines: looking for the hospitals' latents"):
            held = plan_baselines(store, sites)
        try:
            _work_off(store, jobs, at_once=_at_once(sites))
        except ChildError:
            raise
        except BaseException:
            say("baselines stopped; the same command goes on with them")
            raise
        finally:
            del held  # until here it kept the latents on the disk
            report = write_report(store)
        say(f"report with baselines: {report}")


def baselines_left(store: RunStore, wanted: Sequence[str]) -> bool:
    """Whether any of a complete run's baselines is not done."""
    facts = BaselineFolder.of_run(store.root).facts()
    kinds = [Baseline(each) for each in wanted]
    return bool(kinds) and (not facts or bool(_left(store, list(facts), kinds)))


def heldout_of(store: RunStore, sites: Sequence[SiteConfig]) -> float | None:
    """Return the held-out loss of a complete run's last weights, asked of the hospitals here.

    For a study whose privacy keeps the hospitals from telling theirs.
    """
    with lock_run(store.root, "baselines"):
        last, path = store.summary().rounds_done, BaselineFolder.of_run(store.root).federated
        if last not in read_scores(path):
            held = plan_baselines(store, sites)
            _work_off(store, [FEDERATED], at_once=1)
            del held
        folder = BaselineFolder.of_run(store.root)
        return mean_loss(read_scores(path)[last], folder.facts())


def _left(store: RunStore, hospitals: Sequence[str], wanted: Sequence[Baseline]) -> list[str]:
    """Return the folders below ``RUN/baselines`` that are not done, the scores first."""
    folder = BaselineFolder.of_run(store.root)
    alone = [f"{LOCAL_ONLY}/{name}" for name in hospitals]
    jobs = {Baseline.CENTRALISED: [CENTRALISED], Baseline.LOCAL_ONLY: alone}
    left = [job for each in dict.fromkeys(wanted) for job in jobs[each] if not _is_done(store, job)]
    scored = store.summary().rounds_done in read_scores(folder.federated)
    return left if scored else [FEDERATED, *left]


def _is_done(store: RunStore, job: str) -> bool:
    root = BaselineFolder.of_run(store.root).root / job
    if not (root / "study.yaml").exists():
        return False
    summary = RunStore(root).summary()
    return summary.state == "complete" and summary.rounds_done >= store.study.rounds


def plan_baselines(store: RunStore, sites: Sequence[SiteConfig]) -> object:
    """Write down where the hospitals' latents are; they stay there while the result is held."""
    from feat_fed.protocol import Assignment
    from feat_fed.simulate.baseline import BaselinePlan, HospitalClips
    from feat_fed_client.label import label_of
    from feat_fed_client.session import SiteSession

    assignment = Assignment(
        study_id=store.summary().study_id,
        round=1,
        task="evaluate",
        first_step=0,
        study=store.study,
    )
    found = {}
    for site in sites:
        # Nothing leaves anybody here: the limits and demands that are rehearsed are of the study.
        free = site.model_copy(update={"limits": LimitsConfig(), "privacy": SitePrivacyConfig()})
        try:
            found[site.name] = SiteSession(free).clips(assignment)
        except DataError as error:
            raise DataError(f"{site.name}: {error}") from error
    if not any(clips.heldout for clips in found.values()):
        raise DataError(
            "no hospital holds a patient out, so nothing can be compared; raise the study's "
            "clips.heldout_fraction or give the hospitals more patients"
        )
    folder = BaselineFolder.of_run(store.root)
    folder.write_facts(
        {
            name: HospitalFacts(
                train_clips=clips.train.num_clips,
                heldout_clips=clips.heldout.num_clips if clips.heldout else 0,
                train_patients=clips.train.num_patients,
                heldout_patients=clips.heldout.num_patients if clips.heldout else 0,
            )
            for name, clips in found.items()
        }
    )
    plan = BaselinePlan(
        hospitals={
            site.name: HospitalClips(
                train=found[site.name].train.source(),
                heldout=clips.source() if (clips := found[site.name].heldout) else None,
                compute=site.compute,
                label=label_of(site, store.study),
            )
            for site in sites
        }
    )
    write_bytes_atomically(folder.plan, plan.model_dump_json().encode())
    return found


def _at_once(sites: Sequence[SiteConfig]) -> int:
    """Return how many trainings go on at a time: one on a GPU, else as the cores have room for."""
    threads = max(site.compute.threads * site.compute.num_devices for site in sites)
    if threads == 0 or any(site.compute.device != "cpu" and _has_gpu() for site in sites):
        return 1
    return max(1, (os.cpu_count() or 1) // threads)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _work_off(store: RunStore, jobs: Sequence[str], *, at_once: int) -> None:
    """Run the jobs; those that fail are told at the end, and the others are done by then."""
    waiting, running, failed = list(jobs), dict[str, Child](), dict[str, Child]()
    with ChildGroup() as group, console.status("baselines") as status:
        while waiting or running:
            while waiting and len(running) < at_once:
                job = waiting.pop(0)
                running[job] = _started(group, store, job)
            time.sleep(_LOOK_SEC)
            group.rotate_logs()
            for job, child in list(running.items()):
                if (code := child.process.poll()) is None:
                    continue
                del running[job]
                if code:
                    failed[job] = child
                else:
                    _tell(store, job)
                group.remove(child)
            status.update(_standing(store, running, len(waiting)))
    if failed:
        lines = [f"{job}: {each.tail(1)} (log: {each.log_file})" for job, each in failed.items()]
        raise ChildError("\n".join(["baselines failed; the same command tries again:", *lines]))


def _started(group: ChildGroup, store: RunStore, job: str) -> Child:
    return group.start(
        f"the baseline {job}",
        [*(sys.executable, "-m", "feat_fed.simulate.baseline_child"), str(store.root), job],
        log_file=store.logs / f"baseline-{job.replace('/', '-')}.log",
        env={"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
    )


def _standing(store: RunStore, running: Mapping[str, Child], waiting: int) -> str:
    folder = BaselineFolder.of_run(store.root).root
    parts = []
    for job in running:
        done = max(read_scores(scores_of(folder / job)), default=0)
        rounds = "" if job == FEDERATED else f", {done} of {store.study.rounds} rounds"
        parts.append(f"{job}{rounds}")
    more = f"; {waiting} to come" if waiting else ""
    return f"baselines: {'; '.join(parts)}{more}"


def _tell(store: RunStore, job: str) -> None:
    folder = BaselineFolder.of_run(store.root)
    path = folder.federated if job == FEDERATED else scores_of(folder.root / job)
    scores, facts = read_scores(path), folder.facts()
    last = scores.get(store.summary().rounds_done, {})
    own = last.get(job.rpartition("/")[2])
    of_own = "" if own is None else f", {own:.4f} on its own hospital's patients"
    mean = mean_loss(last, facts)
    everybody = "not known" if mean is None else f"{mean:.4f} on everybody's held-out patients"
    say(f"{job}: held-out loss {everybody}{of_own}")
