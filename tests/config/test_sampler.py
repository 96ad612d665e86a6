from __future__ import annotations

import pytest
import yaml

from feat_fed.config import (
    FEATConfig,
    SamplerConfig,
    StudyConfig,
    dump_yaml,
    load_study,
    validate,
)
from feat_fed.errors import ConfigError

MODEL = FEATConfig(num_trios=2, num_classes=3)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"guidance_scale": 3.0}, "guidance_scale is 3 without a label to guide to; set label"),
        ({"guidance_scale": -1.0}, "guidance_scale: .* greater than or equal to 0"),
        ({"perturbed_trios": [-1]}, r"perturbed_trios\.0: .* greater than or equal to 0"),
        ({"precision": "fp16"}, "precision: .* 'fp32' or 'bf16'"),
    ],
)
def test_a_sampler_that_cannot_be_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(SamplerConfig, options, "the sampler")


def test_a_sampler_fits_the_model_or_says_why_not() -> None:
    assert SamplerConfig().misfit(FEATConfig()) is None
    assert SamplerConfig(label=2, guidance_scale=2, perturbed_trios=(0, 1)).misfit(MODEL) is None
    classes = SamplerConfig(label=3).misfit(MODEL)
    assert classes and "sampler.label is 3, but the model's classes are 0 to 2" in classes
    none = SamplerConfig(label=0).misfit(FEATConfig())
    assert none and "the model's classes are none (model.num_classes is 0)" in none
    trios = SamplerConfig(perturbed_trios=(1, 2)).misfit(MODEL)
    assert trios and "sampler.perturbed_trios holds 2, but the model's trios are 0 to 1" in trios


def test_a_study_whose_sampler_asks_for_too_much_does_not_start() -> None:
    tree = load_study("demo").model_dump()
    tree["sampler"] = {"label": 1}
    with pytest.raises(ConfigError, match=r"sampler\.label is 1"):
        validate(StudyConfig, tree, "study.yaml")


def test_every_option_goes_through_yaml() -> None:
    study = load_study("demo")
    tree = study.model_dump(mode="json")
    tree["model"]["num_classes"] = 2
    tree["diffusion"] |= {"prediction": "v", "loss_weighting": "min_snr", "min_snr_gamma": 3.0}
    tree["sampler"] |= {
        **{"label": 1, "guidance_scale": 2.0, "perturbed_scale": 1.5},
        **{"perturbed_trios": [1], "precision": "bf16"},
    }
    changed = validate(StudyConfig, tree, "study.yaml")
    assert changed != study
    assert validate(StudyConfig, yaml.safe_load(dump_yaml(changed)), "again") == changed
