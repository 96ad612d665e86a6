"""Which class of the study's model a site's clips are."""

from __future__ import annotations

from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.errors import ConfigError


def label_of(site: SiteConfig, study: StudyConfig) -> int | None:
    """Return the class of the site's clips in the study's model; None where it has no classes.

    Raises
    ------
    ConfigError
        If the study has classes and the site's file names none of them.
    """
    classes, label = study.model.num_classes, site.data.label
    if not classes:
        return None
    if label is None or label >= classes:
        raise ConfigError(
            f"data.label is {label}, and the study's model has the classes 0 to {classes - 1}; "
            "say in the site's file which one its clips are"
        )
    return label
