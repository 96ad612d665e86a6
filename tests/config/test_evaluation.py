from pathlib import Path

import pytest

from feat_fed.config import (
    EvaluationConfig,
    NetworkFileConfig,
    StudyConfig,
    built_in_studies,
    dump_yaml,
    load_study,
)
from feat_fed.errors import ConfigError
from feat_fed.protocol import Assignment, Versions
from feat_fed.report import RunStore

SHA256 = "a" * 64

STUDY = """
name: x
model: {in_channels: 6}
evaluation:
  benchmark: mine.yaml
  folder: real
  protocol: quick.yaml
  trained_on: [lists/a.txt]
  networks: {i3d-torchscript: {path: ../i3d.pt, sha256: SHA}}
""".replace("SHA", SHA256)


@pytest.fixture
def measured(tmp_path: Path) -> StudyConfig:
    (tmp_path / "study.yaml").write_text(STUDY)
    return load_study(tmp_path / "study.yaml")


@pytest.mark.parametrize("name", built_in_studies())
def test_a_study_without_evaluation_has_no_such_key_in_any_form(name: str) -> None:
    study = load_study(name).model_copy(update={"evaluation": None})
    assert "evaluation" not in dump_yaml(study)
    assert "evaluation" not in study.model_dump_json()
    assert "evaluation" not in study.model_dump()


def test_paths_are_counted_from_the_studys_file(measured: StudyConfig, tmp_path: Path) -> None:
    evaluation = measured.evaluation
    assert evaluation is not None
    assert evaluation.folder == tmp_path / "real"
    assert evaluation.trained_on == (tmp_path / "lists" / "a.txt",)
    assert (evaluation.benchmark, evaluation.protocol) == (
        str(tmp_path / "mine.yaml"),
        str(tmp_path / "quick.yaml"),
    )
    assert evaluation.networks["i3d-torchscript"].path == tmp_path.parent / "i3d.pt"
    assert EvaluationConfig(protocol="feat-paper").absolute(tmp_path).protocol == "feat-paper"
    (tmp_path / "again.yaml").write_text(dump_yaml(measured))
    assert load_study(tmp_path / "again.yaml") == measured


def test_no_path_leaves_the_machine(measured: StudyConfig, tmp_path: Path) -> None:
    shown = measured.without_paths().evaluation
    assert shown == EvaluationConfig(
        benchmark="mine.yaml",
        protocol="quick.yaml",
        networks={"i3d-torchscript": NetworkFileConfig(sha256=SHA256)},
    )
    assert str(tmp_path) not in dump_yaml(measured.without_paths())


def test_no_site_hears_of_it(measured: StudyConfig) -> None:
    fields = {"study_id": "0" * 32, "round": 1, "task": "train", "first_step": 0}
    versions = Versions.installed()
    told = Assignment(study=measured, versions=versions, **fields)
    plain = measured.model_copy(update={"evaluation": None})
    assert told.model_dump_json() == (
        Assignment(study=plain, versions=versions, **fields).model_dump_json()
    )


def test_a_resumed_run_may_be_measured_otherwise(measured: StudyConfig, tmp_path: Path) -> None:
    plain = measured.model_copy(update={"evaluation": None})
    RunStore.create(tmp_path / "run", plain)
    for study in (measured, plain):
        RunStore.resume(tmp_path / "run", study)
        assert RunStore(tmp_path / "run").study == study


def test_a_wrong_value_is_told(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text("name: x\nevaluation: {num_clips: 3, every_round: 2}\n")
    with pytest.raises(ConfigError, match=r"(?s)evaluation\.num_clips.*every_rounds\?"):
        load_study(tmp_path / "study.yaml")
