"""Whether this machine can train the study's model: devices, memory, time."""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.data.inventory.pool import cores
from feat_fed.findings import Finding, Number, amber, green, red
from feat_fed.report.live import LIVE_FILE, SiteLive
from feat_fed.report.units import format_bytes, format_duration
from feat_fed.train.memory import available_bytes
from feat_fed.train.private import rows_per_patient
from feat_fed.train.steps import planned_steps
from feat_fed_client.check.measure import TRAIN_TIMEOUT_SEC, StepTrial, Trouble
from feat_fed_client.check.subject import Subject
from feat_fed_client.check.text import told_and_mend
from feat_fed_client.limits import TRAINING_SHARE
from feat_fed_client.running import client_is_running

_DRIVER = Path("/proc/driver/nvidia/version")
_STATES = 4
"""Weights, gradients and AdamW's two moments, each as large as the weights."""
_START_SEC = 20.0
"""For what stands around a round's training: processes, messages, the dry step."""
_DAY_MIN = 24 * 60
_LESS = (
    "close other programs, raise compute.memory_share, set compute.gradient_checkpointing: true, "
    "or ask for a study with fewer frames or pixels"
)


def devices(subject: Subject) -> Finding:
    """Compare the devices that are asked for with those that are there."""
    compute = subject.site.compute
    number = torch.cuda.device_count() if torch.cuda.is_available() else 0
    driver = _driver()
    if compute.device == "cuda" and not number:
        has = f"driver {driver} is there" if driver else "no NVIDIA driver is there"
        return red(
            f"compute.device is cuda, and torch {torch.__version__} finds no GPU ({has})",
            "install a driver and a CUDA build of torch, or set compute.device: cpu",
            gpus=0,
        )
    if compute.device == "cpu" or not number:
        if not isinstance(compute.devices, int):
            return red(
                f"compute.devices names GPUs, and training runs on the CPU ({number} GPUs found)",
                "give the number of processes in compute.devices, or mend the GPU",
                gpus=number,
            )
        if driver and compute.device == "auto":
            return amber(
                f"CPU: NVIDIA driver {driver} is there, but torch {torch.__version__} cannot use "
                "it",
                "install a CUDA build of torch that fits the driver",
                gpus=0,
                cpu_cores=cores(),
            )
        return green(
            f"CPU, {cores()} cores, {compute.num_devices} process(es)", gpus=0, cpu_cores=cores()
        )
    return _gpus(subject, number, driver)


def memory(subject: Subject) -> Finding:
    """Take some steps of the study's training and see what they hold."""
    state_bytes, may_use_bytes = _state(subject)
    if state_bytes > may_use_bytes:
        return red(
            f"weights, gradients and optimiser alone need {format_bytes(state_bytes)}, and "
            f"{format_bytes(may_use_bytes)} may be used",
            "raise compute.memory_share, take a machine with more memory, or ask for a study with "
            "a smaller model",
            needed_bytes=state_bytes,
            may_use_bytes=may_use_bytes,
        )
    if reason := _not_now(subject):
        return amber(*reason, needed_at_least_bytes=state_bytes, may_use_bytes=may_use_bytes)
    trial = subject.step
    if isinstance(trial, Trouble):
        return _trouble(subject.site, trial, state_bytes, may_use_bytes)
    return _fits(subject, trial)


def _state(subject: Subject) -> tuple[int, int]:
    """Return the bytes of weights, gradients and moments, and those that may be used."""
    may_use_bytes = int(subject.site.compute.memory_share * _free_bytes(subject.site))
    return _STATES * subject.weights_bytes, may_use_bytes


def round_time(subject: Subject) -> Finding:
    """Estimate a round, and compare it with the study's deadline."""
    study = subject.study
    assert study is not None
    if reason := _not_now(subject):
        return amber(*reason)
    state_bytes, may_use_bytes = _state(subject)
    # Not tried where it cannot be: the weights alone would take all memory.
    trial = subject.step if state_bytes <= may_use_bytes else None
    if trial is None or isinstance(trial, Trouble):
        return red("a round cannot be timed: no step was done", "see the memory check")
    it = _estimate(subject, study, trial)
    return it.finding(study.sites.round_sec)


@dataclass(frozen=True)
class _Estimate:
    """A round of the study at this site."""

    step_sec: float
    planned_steps: int
    steps: int
    """Within the limits."""
    limit: str
    other_sec: float
    """For scoring, weights on the way, and what stands around."""

    @property
    def seconds(self) -> float:
        return self.steps * self.step_sec + self.other_sec

    def finding(self, deadline_sec: float) -> Finding:
        numbers: dict[str, Number] = {
            "step_sec": round(self.step_sec, 4),
            "planned_steps": self.planned_steps,
            "steps": self.steps,
            "round_sec": round(self.seconds, 1),
            "deadline_sec": deadline_sec,
        }
        found = (
            f"{self.step_sec:.3g} s a step: {self.steps} of {self.planned_steps} steps"
            f"{f' within {self.limit}' if self.steps < self.planned_steps else ''}, about "
            f"{format_duration(self.seconds)} a round; the study waits "
            f"{format_duration(deadline_sec)}"
        )
        fitting = int((deadline_sec * TRAINING_SHARE - self.other_sec) / self.step_sec)
        if fitting < 1 or self.steps < 1:
            return red(
                found + ": not one step can be done in time",
                "give training a faster device or longer hours, or ask the coordinator for a "
                "longer sites.round_sec",
                **numbers,
            )
        if fitting < self.steps:
            return amber(
                f"{found}: it ends before that, with about {fitting} steps",
                "nothing, if so many are enough; else ask the coordinator for a longer "
                "sites.round_sec or fewer local_steps",
                **numbers | {"steps": fitting},
            )
        if self.steps < self.planned_steps:
            return amber(found, "raise the limit if more steps are to be done", **numbers)
        return green(found, **numbers)


def _estimate(subject: Subject, study: StudyConfig, trial: StepTrial) -> _Estimate:
    clips = subject.clips
    planned = planned_steps(study.training, num_clips=clips.num_training if clips else 1)
    limits = {
        "the study's local_minutes": study.training.local_minutes,
        "limits.minutes_per_round": subject.site.limits.minutes_per_round,
        "limits.hours": _longest_minutes(subject.site),
    }
    minutes = {name: each for name, each in limits.items() if each is not None}
    limit = min(minutes, key=lambda name: minutes[name], default="")
    within = int(minutes[limit] * 60 / trial.step_sec) if limit else planned
    scoring_sec = study.training.heldout_clips * trial.score_clip_sec
    return _Estimate(
        step_sec=trial.step_sec,
        planned_steps=planned,
        steps=min(planned, within),
        limit=limit,
        other_sec=scoring_sec + _transfer_sec(subject) + _START_SEC,
    )


def _transfer_sec(subject: Subject) -> float:
    """Return the time of a round's weights down and up, as far as it was measured."""
    if subject.offline or subject.quick or subject.site.server is None:
        return 0.0
    rates = (subject.way.down_bytes_per_sec, subject.way.up_bytes_per_sec)
    pairs = zip(subject.round_bytes, rates, strict=True)
    return sum(size_bytes / rate for size_bytes, rate in pairs if rate)


def _longest_minutes(site: SiteConfig) -> float | None:
    """Return how long the longest of the site's hours are."""
    hours = ((each.begin, each.end) for each in site.limits.hours)
    lengths = [(end.hour - begin.hour) * 60 + end.minute - begin.minute for begin, end in hours]
    return max((each % _DAY_MIN for each in lengths), default=None)


def _not_now(subject: Subject) -> tuple[str, str] | None:
    """Return why no step is tried, and what to do."""
    if subject.quick:
        return "not measured (--quick)", "leave --quick out"
    live = SiteLive.read(subject.site.store / LIVE_FILE)
    if client_is_running(subject.site.store) and live and live.phase != "idle":
        return (
            f"not measured: the client is at work ({live.phase}), and would be slowed down",
            "check again when it is idle",
        )
    return None


def _fits(subject: Subject, trial: StepTrial) -> Finding:
    study = subject.study
    assert study is not None
    compute = subject.site.compute
    batch, privacy = study.training.batch_size, study.privacy.patient
    each = math.ceil(batch / compute.num_devices)
    if privacy is not None:
        batch = each = rows_per_patient(privacy)
    wanted = min(each, compute.micro_batch or each)
    numbers: dict[str, Number] = {
        "micro_batch": trial.micro_batch,
        "batch_size": batch,
        "peak_bytes": trial.peak_bytes,
        "may_use_bytes": trial.may_use_bytes,
    }
    peak = (
        f"{format_bytes(trial.peak_bytes)} at the peak" if trial.peak_bytes else "peak not measured"
    )
    found = (
        f"{trial.micro_batch} of {batch} clips{' of a patient' if privacy else ''} at once"
        f"{' in each process' if compute.num_devices > 1 else ''}; {peak}, "
        f"{format_bytes(trial.may_use_bytes)} may be used"
    )
    if trial.peak_bytes is not None and trial.peak_bytes > trial.may_use_bytes:
        return amber(f"{found}: more than that was held", _LESS, **numbers)
    if trial.micro_batch < wanted:
        return amber(
            f"{found}; {wanted} do not fit",
            "it trains in more passes; compute.gradient_checkpointing: true makes room",
            **numbers,
        )
    return green(found, **numbers)


def _trouble(site: SiteConfig, trial: Trouble, needed_bytes: int, may_use_bytes: int) -> Finding:
    numbers: dict[str, Number] = {
        "needed_at_least_bytes": needed_bytes,
        "may_use_bytes": may_use_bytes,
    }
    if trial.kind == "memory" and not trial.text:
        found = f"the trial was ended for want of memory ({trial.code})"
        return red(f"{found}; {format_bytes(may_use_bytes)} may be used", _LESS, **numbers)
    if trial.kind == "slow":
        return red(
            f"two steps were not done within {format_duration(TRAIN_TIMEOUT_SEC)}",
            "give training a faster device, or ask for a smaller study",
            **numbers,
        )
    if trial.text:
        told, mend = told_and_mend(trial.text, site)
        return red(told, mend, **numbers)
    return red(f"the trial failed ({trial.code})", "send this to the coordinator", **numbers)


def _gpus(subject: Subject, number: int, driver: str | None) -> Finding:
    compute = subject.site.compute
    wanted = list(range(compute.devices)) if isinstance(compute.devices, int) else compute.devices
    if absent := [each for each in wanted if each >= number]:
        return red(
            f"compute.devices asks for GPU {absent[0]}, and there are {number} (0 to {number - 1})",
            "name GPUs that are there",
            gpus=number,
        )
    parts = [torch.cuda.get_device_properties(each) for each in wanted]
    total_bytes = sum(each.total_memory for each in parts)
    found = (
        f"{len(wanted)} of {number} GPUs: {', '.join(sorted({each.name for each in parts}))}; "
        f"{format_bytes(total_bytes)}, driver {driver or 'unknown'}, CUDA {torch.version.cuda}"
    )
    numbers: dict[str, Number] = {
        "gpus": number,
        "gpus_used": len(wanted),
        "gpu_memory_bytes": total_bytes,
    }
    precision = compute.precision or (subject.study.training.precision if subject.study else "fp32")
    if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return amber(
            f"{found}; no bf16 in hardware", "set compute.precision: fp32", driver=driver, **numbers
        )
    return green(found, driver=driver, **numbers)


def _free_bytes(site: SiteConfig) -> int:
    if site.compute.device == "cpu" or not torch.cuda.is_available():
        return available_bytes()
    return int(torch.cuda.mem_get_info()[0]) * site.compute.num_devices


def _driver() -> str | None:
    with contextlib.suppress(OSError):
        match = re.search(r"Kernel Module.*?(\d+\.[\d.]+)", _DRIVER.read_text())
        return match[1] if match else None
    return None
