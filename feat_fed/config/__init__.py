"""Two configurations, two owners: the study (coordinator) and the site (hospital)."""

from feat_fed.config.evaluation import EvaluationConfig, NetworkFileConfig
from feat_fed.config.federation import FederationConfig
from feat_fed.config.load import (
    built_in_studies,
    dump_yaml,
    fault_in,
    load_federation,
    load_simulation,
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
from feat_fed.config.privacy import (
    CentralPrivacyConfig,
    PatientPrivacyConfig,
    PrivacyConfig,
    ReleaseConfig,
    SecureAggregationConfig,
    SitePrivacyConfig,
)
from feat_fed.config.simulation import (
    FailureConfig,
    PartitionConfig,
    ResourcesConfig,
    SimulationConfig,
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
from feat_fed.config.sites import ScreeningConfig, SitesConfig
from feat_fed.config.strategy import CheckpointsConfig, StrategyConfig
from feat_fed.config.study import (
    ClipConfig,
    StudyConfig,
    TrainingConfig,
)
from feat_fed.config.transfer import TransferConfig

__all__ = [
    "CentralPrivacyConfig",
    "CheckpointsConfig",
    "ClipConfig",
    "CodecConfig",
    "ComputeConfig",
    "DiffusionConfig",
    "EvaluationConfig",
    "FEATConfig",
    "FailureConfig",
    "FederationConfig",
    "HoursConfig",
    "LatentsConfig",
    "LimitsConfig",
    "MonaiKLConfig",
    "NetworkFileConfig",
    "PartitionConfig",
    "PatientPrivacyConfig",
    "PrivacyConfig",
    "ReleaseConfig",
    "ResourcesConfig",
    "RulesConfig",
    "SamplerConfig",
    "ScreeningConfig",
    "SecureAggregationConfig",
    "ServerLinkConfig",
    "SimulationConfig",
    "SiteConfig",
    "SiteDataConfig",
    "SitePrivacyConfig",
    "SitesConfig",
    "StrategyConfig",
    "StudyConfig",
    "TrainingConfig",
    "TransferConfig",
    "built_in_studies",
    "dump_yaml",
    "fault_in",
    "load_federation",
    "load_simulation",
    "load_site",
    "load_study",
    "validate",
]
