"""A hospital's folder for the tests of ``feat-fed check``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from clip_files import moving_frames, write_dicom
from feat_fed.config import (
    ComputeConfig,
    RulesConfig,
    SiteConfig,
    SiteDataConfig,
    StudyConfig,
    load_study,
)
from feat_fed.data import Manifest, scan


def small_study(**parts: dict[str, Any]) -> StudyConfig:
    """Return the demonstration's study, small; ``parts`` change fields of its sections."""
    changes: dict[str, dict[str, Any]] = {
        "model": {"hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 4, "size_px": 32},
        "training": {"engine": "torch", "batch_size": 2, "local_steps": 10, "heldout_clips": 2},
    }
    for name, fields in parts.items():
        changes[name] = changes.get(name, {}) | fields
    tree = load_study("demo").model_dump(mode="json")
    return StudyConfig.model_validate(
        tree | {name: tree[name] | fields for name, fields in changes.items()}
    )


def make_site(folder: Path, *, patients: str = "abcd", **fields: Any) -> SiteConfig:
    """Return a site whose clips were not looked at yet."""
    data = folder / "data"
    data.mkdir(parents=True)
    for patient in patients:
        write_dicom(data / f"{patient}.dcm", moving_frames(20), PatientID=patient)
    store = folder / "store"
    store.mkdir(mode=0o700)
    (store / "patients.key").write_bytes(bytes(32))  # who is held out is known
    (store / "patients.key").chmod(0o600)
    rules = RulesConfig(duplicate_bits=None, review="waived")
    return SiteConfig.model_validate(
        {
            "name": "hospital-a",
            "data": SiteDataConfig(paths=(data,), rules=rules, workers=1),
            "store": store,
            "compute": ComputeConfig(device="cpu", threads=1),
        }
        | fields
    )


def look_at_clips(site: SiteConfig) -> None:
    """Do what `feat-fed data scan` does."""
    with Manifest(site.store, alone="refuse") as manifest:
        scan(site.data, manifest=manifest)


def with_a_store_of_its_own(site: SiteConfig, folder: Path) -> SiteConfig:
    """Return the site with a copy of its store, which the scan that made it need not do again."""
    shutil.copytree(site.store, folder / "store")
    return site.model_copy(update={"store": folder / "store"})


def changed(site: SiteConfig, **sections: dict[str, Any]) -> SiteConfig:
    """Return the site with fields of its sections replaced."""
    return site.model_copy(
        update={
            name: getattr(site, name).model_copy(update=fields) for name, fields in sections.items()
        }
    )
