"""Whether there is something to train on: clips, patients, class, codec, latents."""

from __future__ import annotations

import time
from pathlib import Path

from feat_fed.codec import VideoCodec
from feat_fed.codec.prepare import latent_bytes, missing_latents
from feat_fed.data import ClipEntry
from feat_fed.data.inventory.locate import locate
from feat_fed.data.inventory.pool import cores
from feat_fed.errors import ConfigError, DataError
from feat_fed.findings import Finding, Number, amber, green, red
from feat_fed.report.units import format_bytes, format_duration
from feat_fed_client.check.measure import Trouble, try_encoding
from feat_fed_client.check.subject import Subject
from feat_fed_client.check.text import told_and_mend
from feat_fed_client.check.trial import MAX_TRIAL_CLIPS
from feat_fed_client.label import label_of

_OLD_SCAN_DAYS = 30
_DAY_SEC = 24 * 3600.0
_SHARE = 0.1
"""Of a round's deadline that encoding may take without a word."""
_MAX_NAMES = 20_000
"""Of files that are walked through to find clips for a trial."""
_SCAN = "run `feat-fed data scan SITE.yaml`"


def clips(subject: Subject) -> Finding:
    """Count the clips as the last scan left them."""
    absent = sum(not each.exists() for each in subject.site.data.paths)
    if absent:
        return red(
            f"{absent} of {len(subject.site.data.paths)} data.paths do not exist",
            "correct data.paths, or mount what is missing",
            absent_paths=absent,
        )
    it = subject.clips
    if it is None:
        return red("no file was looked at yet", _SCAN)
    age_sec = time.time() - it.scanned_at if it.scanned_at else None
    numbers: dict[str, Number] = {
        "usable": len(it.usable),
        "waiting": it.waiting,
        "excluded": it.excluded,
        "too_short": it.too_short,
        "scan_age_sec": None if age_sec is None else round(age_sec),
    }
    ago = "at an unknown time" if age_sec is None else f"{_age(max(0.0, age_sec))} ago"
    found = f"{len(it.usable)} usable, {it.waiting} to approve, {it.excluded} left out"
    found += f" (most: {it.reasons[0]})" if it.reasons else ""
    found += f", {it.too_short} too short for the study" if it.too_short else ""
    found += f"; scanned {ago}"
    approve = "look at them with `feat-fed data report`, then `feat-fed data approve`"
    if not it.usable:
        return red(found, approve if it.waiting else f"add clips and {_SCAN}", **numbers)
    if it.waiting:
        return amber(found, approve, **numbers)
    if age_sec is None or age_sec > _OLD_SCAN_DAYS * _DAY_SEC:
        return amber(found, _SCAN, **numbers)
    return green(found, **numbers)


def patients(subject: Subject) -> Finding:
    """Count the patients on both sides of the split."""
    study, it = subject.study, subject.clips
    assert study is not None
    if it is None or not it.usable:
        return red("no usable clip, so no patient", _SCAN)
    sides = list(it.sides.values())
    training, heldout = sides.count("train"), sides.count("heldout")
    numbers: dict[str, Number] = {"training": training, "heldout": heldout}
    found = f"{training} to train on, {heldout} held out"
    if not training:
        return red(found, "add clips of other patients", **numbers)
    if not heldout and study.clips.heldout_fraction > 0:
        return amber(
            f"{found}: this site cannot score the model", "add clips of other patients", **numbers
        )
    return green(found, **numbers)


def label(subject: Subject) -> Finding:
    """Compare the site's class with the study's classes."""
    study = subject.study
    assert study is not None
    try:
        found = label_of(subject.site, study)
    except ConfigError:
        return red(
            f"data.label is {subject.site.data.label}, and the study's classes are 0 to "
            f"{study.model.num_classes - 1}",
            "say in the site's file which class its clips are",
            label=subject.site.data.label,
            classes=study.model.num_classes,
        )
    if found is None:
        return green("the study has no classes", classes=0)
    return green(
        f"class {found} of 0 to {study.model.num_classes - 1}",
        label=found,
        classes=study.model.num_classes,
    )


def codec(subject: Subject) -> Finding:
    """Load the study's codec, with the SHA-256 that the study names."""
    study, it = subject.study, subject.codec
    assert study is not None
    if isinstance(it, ConfigError):
        return red(*told_and_mend(str(it), subject.site))
    if study.codec.weights_sha256 is None:
        return green(f"{study.codec.kind} needs no weights")
    return green(f"{study.codec.kind}, weights {study.codec.weights_sha256[:12]} as in the study")


def latents(subject: Subject) -> Finding:
    """Count the clips that are encoded, and say what the others will take."""
    study, site, it = subject.study, subject.site, subject.clips
    assert study is not None
    if it is None or not it.usable:
        return red("no usable clip, so no latent", _SCAN)
    if isinstance(subject.codec, ConfigError):
        return red("without its codec nothing can be encoded", "see the codec check")
    missing = missing_of(subject, subject.codec)
    needed_bytes = sum(latent_bytes(each, subject.codec, study.clips) for each in missing)
    all_bytes = sum(latent_bytes(each, subject.codec, study.clips) for each in it.usable)
    ready = len(it.usable) - len(missing)
    found = f"{ready} of {len(it.usable)} clips are encoded"
    numbers: dict[str, Number] = {
        "clips": len(it.usable),
        "encoded": ready,
        "needed_bytes": needed_bytes,
        "all_bytes": all_bytes,
    }
    if site.latents.max_gb is not None and all_bytes > site.latents.max_gb * 1e9:
        return red(
            f"{found}; all need {format_bytes(all_bytes)}, and latents.max_gb is "
            f"{site.latents.max_gb:g}",
            "raise latents.max_gb, or take fewer clips",
            **numbers,
        )
    if not missing:
        return green(f"{found} ({format_bytes(all_bytes)})", **numbers)
    seconds = _encoding_sec(subject, missing)
    takes = (
        "in a time that was not measured"
        if seconds is None
        else f"in about {format_duration(seconds)}"
    )
    found += f"; {len(missing)} to come, {format_bytes(needed_bytes)}, {takes}"
    numbers["encoding_sec"] = None if seconds is None else round(seconds, 1)
    if seconds is not None and seconds < _SHARE * study.sites.round_sec:
        return green(found, **numbers)
    if seconds is not None and seconds > study.sites.round_sec:
        found += f"; the study waits {format_duration(study.sites.round_sec)} for a round"
    return amber(
        found, "`feat-fed data prepare SITE.yaml --study ...` does it before a round", **numbers
    )


def _age(age_sec: float) -> str:
    days = age_sec / _DAY_SEC
    return f"{days:.0f} days" if days >= 2 else format_duration(age_sec)


def missing_of(subject: Subject, codec: VideoCodec) -> tuple[ClipEntry, ...]:
    """Return the usable clips without a latent of the study."""
    study, it = subject.study, subject.clips
    assert study is not None
    return missing_latents(
        it.usable if it else (),
        folder=subject.latents,
        dtype=subject.site.latents.dtype,
        codec=codec,
        clips=study.clips,
    )


def _encoding_sec(subject: Subject, missing: tuple[ClipEntry, ...]) -> float | None:
    """Return the time for all that is missing, by the frames of a few; None if unmeasured."""
    it, study, site = subject.clips, subject.study, subject.site
    if subject.quick or it is None or study is None:
        return None
    trial = try_encoding(site, study, _some(subject, missing, it.key))
    if isinstance(trial, Trouble) or not trial.frames:
        return None
    # On a CPU clips are encoded by several processes, each of which has a core.
    side_by_side = 1
    if site.compute.device != "cuda":
        side_by_side = min(site.data.workers or cores(), len(missing), cores())
    frames = sum(each.num_frames for each in missing)
    return trial.seconds / trial.frames * frames / side_by_side


def _some(subject: Subject, missing: tuple[ClipEntry, ...], key: bytes) -> dict[Path, ClipEntry]:
    """Find the files of some clips."""
    by_id = {each.clip_id: each for each in missing}
    try:
        found = locate(
            subject.site.data.paths, by_id, key=key, at_most=MAX_TRIAL_CLIPS, names=_MAX_NAMES
        )
    except DataError:
        return {}
    return {path: by_id[clip_id] for clip_id, path in found.items()}
