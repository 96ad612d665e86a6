"""Where the study and the site meet."""

from pathlib import Path

import pytest

from feat_fed.config import SiteConfig, SiteDataConfig, StudyConfig, load_study
from feat_fed.errors import ConfigError
from feat_fed_client.session import SiteSession


def label_of(study: StudyConfig, label: int | None, folder: Path) -> int | None:
    data = SiteDataConfig(paths=(folder,), label=label)
    return SiteSession(SiteConfig(name="a", data=data, store=folder))._label(study)


def with_classes(number: int) -> StudyConfig:
    study = load_study("demo")
    model = study.model.model_copy(update={"num_classes": number})
    return study.model_copy(update={"model": model})


def test_a_study_without_classes_asks_for_none(tmp_path: Path) -> None:
    assert label_of(load_study("demo"), None, tmp_path) is None
    assert label_of(load_study("demo"), 3, tmp_path) is None


def test_a_study_with_classes_takes_the_sites(tmp_path: Path) -> None:
    assert label_of(with_classes(2), 1, tmp_path) == 1


@pytest.mark.parametrize("label", [None, 2])
def test_a_site_must_say_its_class(label: int | None, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.label is .* classes 0 to 1"):
        label_of(with_classes(2), label, tmp_path)
