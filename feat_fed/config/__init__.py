"""Two configurations, two owners: the study (coordinator) and the site (hospital)."""

from feat_fed.config.federation import FederationConfig
from feat_fed.config.load import (
    built_in_studies,
    dump_yaml,
    load_federation,
    load_site,
    load_study,
    validate,
)
from feat_fed.config.model import (
    CodecConfig,
    DiffusionConfig,
    FEATConfig,
    MonaiKLConfig,
    SamplerConfig,
)
from feat_fed.config.site import (
    ComputeConfig,
    HoursConfig,
    LatentsConfig,
    LimitsConfig,
    RulesConfig,
    ServerLinkConfig,
    SiteConfig,
    SiteDataConfig,
)
from feat_fed.config.strategy import CheckpointsConfig, StrategyConfig
from feat_fed.config.study import (
    ClipConfig,
    SitesConfig,
    StudyConfig,
    TrainingConfig,
)

__all__ = [
    "CheckpointsConfig",
    "ClipConfig",
    "CodecConfig",
    "ComputeConfig",
    "DiffusionConfig",
    "FEATConfig",
    "FederationConfig",
    "HoursConfig",
    "LatentsConfig",
    "LimitsConfig",
    "MonaiKLConfig",
    "RulesConfig",
    "SamplerConfig",
    "ServerLinkConfig",
    "SiteConfig",
    "SiteDataConfig",
    "SitesConfig",
    "StrategyConfig",
    "StudyConfig",
    "TrainingConfig",
    "built_in_studies",
    "dump_yaml",
    "load_federation",
    "load_site",
    "load_study",
    "validate",
]
