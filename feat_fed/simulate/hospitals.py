"""From a data set to the folders of virtual hospitals, and what is told of them.

::

    data/hospital-1/patient-2/clip-1.mp4               where clips are generated
    hospitals/hospital-1/patient-0007/0003/clip.mp4    a link to the file where it lies
    hospitals.json                                     what they have (DataSummary)
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from feat_fed.config import PartitionConfig, SimulationConfig, SiteDataConfig
from feat_fed.data import hospitals_from_folder
from feat_fed.data.partition import RESEARCHERS_RULES
from feat_fed.data.synthetic import GENERATED_RULES, write_demo_hospitals
from feat_fed.errors import DataError, StorageError
from feat_fed.report.data_summary import DataSummary, HospitalSummary
from feat_fed.report.run_store import RunStore
from feat_fed.simulate.deal import deal
from feat_fed.simulate.patients import Patient, find_patients

Dealt = Mapping[str, Sequence[Patient]]
"""Each hospital's patients."""

_HOSPITALS = 4


def hospitals_of(store: RunStore, config: SimulationConfig) -> dict[str, SiteDataConfig]:
    """Return the virtual hospitals' names and data, and keep a summary of them in the run.

    They are dealt out once: what the run's folder has already stays as it is.

    Raises
    ------
    DataError
        If the data do not make so many hospitals.
    ConfigError
        If the manifest is not in order.
    StorageError
        If no links can be made in the run's folder.
    """
    if config.partition.kind == "folder":
        hospitals = _by_folder(store, config)
        if DataSummary.read(store.root) is None:
            whose = {name: find_patients(data.paths) for name, data in hospitals.items()}
            _summary(whose, config.partition).write(store.root)
        return hospitals
    if (summary := DataSummary.read(store.root)) is None:
        dealt = _dealt(store, config)
        _link(store.root / "hospitals", dealt)
        summary = _summary(dealt, config.partition)
        summary.write(store.root)
    rules = GENERATED_RULES if config.data is None else RESEARCHERS_RULES
    return {
        each.site: SiteDataConfig(paths=(store.root / "hospitals" / each.site,), rules=rules)
        for each in summary.hospitals
    }


def _by_folder(store: RunStore, config: SimulationConfig) -> dict[str, SiteDataConfig]:
    if config.data is None:
        return _generated(store, config)
    wanted = config.hospitals
    found = hospitals_from_folder(config.data, maximum=wanted or _HOSPITALS)
    if wanted is not None and len(found) < wanted:
        raise DataError(
            f"{config.data} makes {len(found)} hospitals and {wanted} were asked for: ask for "
            "fewer (hospitals, --sites), add sub-folders, or have patients dealt out (partition)"
        )
    chosen = dict(list(found.items())[:wanted])
    if config.patient_pattern is None:
        return chosen
    pattern = {"patient_pattern": config.patient_pattern}
    return {name: data.model_copy(update=pattern) for name, data in chosen.items()}


def _generated(store: RunStore, config: SimulationConfig) -> dict[str, SiteDataConfig]:
    folder, count = store.root / "data", config.hospitals or _HOSPITALS
    if (summary := DataSummary.read(store.root)) is not None:
        names = [each.site for each in summary.hospitals]
        return {
            name: SiteDataConfig(paths=(folder / name,), rules=GENERATED_RULES) for name in names
        }
    return write_demo_hospitals(folder, hospitals=count, seed=store.study.seed)


def _dealt(store: RunStore, config: SimulationConfig) -> Dealt:
    if config.data is None:
        _generated(store, config)
    folder = config.data or store.root / "data"
    pool = find_patients([folder], pattern=config.patient_pattern, manifest=config.manifest)
    hands = deal(pool, config.hospitals or _HOSPITALS, config.partition, seed=store.study.seed)
    return {f"hospital-{place}": hand for place, hand in enumerate(hands, start=1)}


def _link(root: Path, dealt: Dealt) -> None:
    """Give each clip a folder of its own below its patient's, which the site's scan goes by."""
    everybody = sorted(patient.key for hand in dealt.values() for patient in hand)
    numbers = {key: number for number, key in enumerate(everybody, start=1)}
    try:
        shutil.rmtree(root, ignore_errors=True)
        for name, hand in dealt.items():
            for patient in hand:
                folder = root / name / f"patient-{numbers[patient.key]:04d}"
                for place, clip in enumerate(patient.clips, start=1):
                    (folder / f"{place:04d}").mkdir(parents=True)
                    for file in clip.source:
                        (folder / f"{place:04d}" / file.name).symlink_to(file.resolve())
    except OSError as error:
        raise StorageError(f"links to the clips cannot be made below {root}: {error}") from error


def _summary(dealt: Dealt, partition: PartitionConfig) -> DataSummary:
    """Count. Labels are told only where they are what is dealt by: a folder may bear any name."""
    by_label = partition.kind == "dirichlet" and partition.by == "label"
    return DataSummary(
        partition=partition.told(),
        by="label" if by_label else "modality",
        hospitals=tuple(
            HospitalSummary(
                site=name,
                patients=len(hand),
                clips=sum(len(patient.clips) for patient in hand),
                groups=Counter(each.label if by_label else each.modality for each in hand),
            )
            for name, hand in dealt.items()
        ),
    )
