"""From a folder to virtual sites: what their own scan finds is what was dealt out."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from clip_files import moving_frames, write_dicom, write_video
from feat_fed.cli.simulation import tell_left_out
from feat_fed.config import (
    ClipConfig,
    PartitionConfig,
    PrivacyConfig,
    SecureAggregationConfig,
    SimulationConfig,
    StudyConfig,
    dump_yaml,
    load_simulation,
)
from feat_fed.data import Manifest, scan
from feat_fed.errors import ConfigError, DataError
from feat_fed.report import RunStore
from feat_fed.report.data_summary import DataSummary
from feat_fed.simulate import fix_pseudonyms, hospitals_of, virtual_sites

FRAMES = moving_frames(16, 32, 32)
RULES = {"default": {"data": {"rules": {"min_motion": 0, "duplicate_bits": None}, "workers": 1}}}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six patients of two labels, two clips each; every other one is DICOM."""
    for number in range(6):
        folder = tmp_path / "data" / ("echo" if number < 3 else "lung") / f"p{number}"
        folder.mkdir(parents=True)
        for clip in range(2):
            frames = FRAMES + number * 2 + clip
            if number % 2:
                write_dicom(folder / f"{clip}.dcm", frames, PatientID=f"P{number}")
            else:
                write_video(folder / f"{clip}.mp4", frames, "mpeg4")
    return tmp_path / "data"


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "run", StudyConfig(name="s", model={"in_channels": 6}))


def test_sites_find_the_patients_that_they_were_dealt(data: Path, store: RunStore) -> None:
    config = SimulationConfig(
        hospitals=3, data=data, partition=PartitionConfig(kind="uniform"), sites=RULES
    )
    sites = virtual_sites(store, hospitals_of(store, config), config)
    fix_pseudonyms(sites, store.study.seed)
    owner: dict[Path, str] = {}
    for site in sites:
        clips = defaultdict(set)
        with Manifest(site.store, alone="wait") as manifest:
            for clip in scan(site.data, manifest=manifest).clips:
                clips[clip.patient].add(clip.source[0].resolve())
        assert sorted(map(len, clips.values())) == [2, 2]
        for files in clips.values():
            assert len({file.parent for file in files}) == 1
            owner |= dict.fromkeys(files, site.name)
    assert len(owner) == 12
    assert len({(file.parent, name) for file, name in owner.items()}) == 6
    again = virtual_sites(store, hospitals_of(store, config), config)
    assert again == sites


def test_a_summary_counts_and_names_labels_only_where_they_are_dealt_by(
    data: Path, store: RunStore, tmp_path: Path
) -> None:
    by_label = PartitionConfig(kind="dirichlet", alpha=0.1)
    hospitals_of(store, SimulationConfig(hospitals=2, data=data, partition=by_label))
    summary = DataSummary.read(store.root)
    assert summary is not None
    names, counts = summary.table()
    assert names == ("echo", "lung")
    assert [sum(column) for column in zip(*counts.values(), strict=True)] == [3, 3]
    other = RunStore.create(tmp_path / "other", store.study)
    hospitals_of(other, SimulationConfig(data=data))
    assert "echo" in (told := (other.root / "hospitals.json").read_text())  # the hospitals' names
    assert '"by": "modality"' in told.replace('":"', '": "')


def test_what_is_set_for_all_and_for_one_is_put_over(data: Path, store: RunStore) -> None:
    config = SimulationConfig(
        data=data,
        resources={"cpus": 2, "gpus": 0.25},
        sites={
            "default": {"limits": {"minutes_per_round": 5}, "compute": {"niceness": 3}},
            "lung": {"limits": {"gb_per_round": 1}, "privacy": {"max_epsilon": 2.0}},
        },
    )
    echo, lung = virtual_sites(store, hospitals_of(store, config), config)
    assert (echo.limits.minutes_per_round, echo.limits.gb_per_round) == (5, None)
    assert (lung.limits.minutes_per_round, lung.limits.gb_per_round) == (5, 1)
    assert lung.privacy.max_epsilon == 2
    assert (echo.compute.threads, echo.compute.niceness, echo.compute.device) == (2, 3, "cuda")
    assert echo.compute.memory_share == pytest.approx(0.225)


@pytest.mark.parametrize(
    ("sites", "told"),
    [
        ({"nobody": {}}, "sites.nobody: no hospital has this name; there are echo, lung"),
        ({"lung": {"limits": {"hour": []}}}, "sites.lung .*\n.*limits.hour: unknown field"),
    ],
)
def test_what_is_set_for_sites_is_held_to_the_site_s_model(
    sites: dict[str, object], told: str, data: Path, store: RunStore
) -> None:
    config = SimulationConfig(data=data, sites=sites)
    with pytest.raises(ConfigError, match=told):
        virtual_sites(store, hospitals_of(store, config), config)


def test_more_hospitals_than_folders(data: Path, store: RunStore) -> None:
    with pytest.raises(DataError, match=r"2 hospitals and 3 were asked for"):
        hospitals_of(store, SimulationConfig(data=data, hospitals=3))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("partition: {kind: uniform, alpha: 1}", "alpha is of `dirichlet`"),
        ("sites: {default: {store: /x}}", "sites.default.store is set by the simulation"),
        ("sites: {a: {data: {paths: [x]}}}", "sites.a.data.paths is set by the simulation"),
        ("failures: [{site: a, round: 1, does: nan, factor: 2}]", "`scale` needs a factor"),
        ("failures: [{site: a, round: 1, does: explode}]", "failures.0.does"),
        ("resources: {gpus: 1.5}", "1.5 GPUs"),
        ("manifest: x.csv", "manifest lists files of data, which is not set"),
        ("patient_pattern: 'pat'", "needs exactly one, the patient"),
    ],
)
def test_settings_that_do_not_fit(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError, match=told):
        load_simulation(path)


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"
    path.write_text("hospitals: 8\ndata: clips\npartition: {kind: dirichlet, alpha: 0.1}\n")
    config = load_simulation(path, hospitals=3, partition={"alpha": 5.0, "by": None})
    assert (config.hospitals, config.data) == (3, tmp_path / "clips")
    assert config.partition == PartitionConfig(kind="dirichlet", alpha=5)
    path.write_text(dump_yaml(uniform := SimulationConfig(partition={"kind": "uniform"})))
    assert load_simulation(path) == uniform
    assert load_simulation(None, hospitals=None, partition={"kind": None}) == SimulationConfig()


def test_failures_that_cannot_happen(store: RunStore) -> None:
    late = SimulationConfig(failures=[{"site": "a", "round": 9, "does": "crash"}])
    with pytest.raises(ConfigError, match=r"failures.0.round is 9 and the study has 3 rounds"):
        late.require_names(("a",), store.study)
    with pytest.raises(ConfigError, match=r"failures.0.site: no hospital is named a; there are b"):
        late.require_names(("b",), store.study)
    masked = store.study.model_copy(
        update={"privacy": PrivacyConfig(secure_aggregation=SecureAggregationConfig())}
    )
    unseen = SimulationConfig(failures=[{"site": "a", "round": 1, "does": "nan"}])
    with pytest.raises(ConfigError, match="which nobody sees in masked numbers"):
        unseen.require_names(("a",), masked)


def test_what_a_hospital_could_not_use_is_told_at_the_end(
    data: Path, store: RunStore, capsys: pytest.CaptureFixture[str]
) -> None:
    uniform = PartitionConfig(kind="uniform")
    config = SimulationConfig(hospitals=3, data=data, partition=uniform, sites=RULES)
    first, *others = virtual_sites(store, hospitals_of(store, config), config)
    clip = next(each for each in first.data.paths[0].rglob("*") if each.is_file()).resolve()
    clip.write_bytes(clip.read_bytes()[:500])
    needed = ClipConfig(frames=4, size_px=32)
    tell_left_out([first, *others], needed)
    assert capsys.readouterr().err == ""  # nobody has looked at anything yet
    for site in (first, others[0]):
        with Manifest(site.store, alone="wait") as manifest:
            scan(site.data, manifest=manifest)
    tell_left_out([first, *others], needed)
    told = capsys.readouterr().err
    assert told.count("usable clips") == 1 and f"{first.name}: 3 usable clips of 2" in told
    assert "1 left out: file is" in told
