"""The schedulers of diffusers that sample from FEAT: made, checked, made again.

diffusers is slow to import and training does without it, so each function imports its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from feat_fed.config import DiffusionConfig, SamplerConfig, validate
from feat_fed.errors import ConfigError

LEARNED = "learned_range"
"""The variance that FEAT predicts: the second half of its output, which only DDPM reads."""

SCHEDULERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "dpm-solver++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
}
"""Kinds of ``SamplerConfig`` and their classes in diffusers."""

_OPTIONS: dict[str, dict[str, Any]] = {
    "ddpm": {"variance_type": LEARNED, "timestep_spacing": "linspace", "clip_sample": False},
    "ddim": {"timestep_spacing": "leading", "clip_sample": False},
}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
_MOST_TIMESTEPS = 100_000


def make_scheduler(sampler: SamplerConfig, diffusion: DiffusionConfig) -> Any:  # noqa: ANN401
    """Return the scheduler of diffusers, its timesteps set.

    ``ddpm`` takes the timesteps round(i (T-1)/(n-1)) with learned variance and ``ddim`` the
    multiples of T//n, as the published sampler does. ``dpm-solver++`` is its second-order
    multistep form.
    """
    scheduler = _class(SCHEDULERS[sampler.kind])(
        num_train_timesteps=diffusion.num_timesteps,
        beta_start=diffusion.beta_start,
        beta_end=diffusion.beta_end,
        beta_schedule="linear",
        prediction_type="v_prediction" if diffusion.prediction == "v" else "epsilon",
        **_OPTIONS.get(sampler.kind, {}),
    )
    return _with_steps(scheduler, sampler.steps)


def read_scheduler(class_name: str, fields: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the scheduler that a saved configuration describes.

    Parameters
    ----------
    class_name
        One of ``SCHEDULERS``; a file's word imports nothing else.
    fields
        Of diffusers' ``scheduler_config.json``.

    Raises
    ------
    ConfigError
        If they describe no such scheduler, or none that samples from FEAT.
    """
    _diffusion(class_name, fields)
    try:
        scheduler = _class(class_name).from_config(dict(fields))
        renewed(scheduler, 2)
    except Exception as error:  # a stranger's fields fail anywhere
        raise ConfigError(f"diffusers makes no {class_name} of these fields: {error}") from None
    return scheduler


def scheduler_diffusion(scheduler: Any) -> DiffusionConfig:  # noqa: ANN401
    """Return the forward process that a scheduler of diffusers reverses.

    Raises
    ------
    ConfigError
        If it is none that FEAT is trained on, or the scheduler none that samples from FEAT.
    """
    return _diffusion(type(scheduler).__name__, getattr(scheduler, "config", {}))


def renewed(scheduler: Any, steps: int) -> Any:  # noqa: ANN401
    """Return a scheduler of the same configuration, without a past, its timesteps set."""
    config = dict(scheduler.config)
    if type(scheduler).__name__ != SCHEDULERS["ddpm"]:
        # Left over where the one was made from a DDPM's configuration.
        config.pop("variance_type", None)
    return _with_steps(type(scheduler).from_config(config), steps)


def _diffusion(class_name: str, fields: Mapping[str, Any]) -> DiffusionConfig:
    if class_name not in SCHEDULERS.values():
        raise ConfigError(
            f"a {class_name[:80]!a} does not sample from FEAT; take one of "
            f"{', '.join(SCHEDULERS.values())}"
        )
    wanted: dict[str, list[object]] = {
        "beta_schedule": ["linear"],
        "trained_betas": [None],
        "prediction_type": list(_PREDICTIONS),
    }
    if class_name == SCHEDULERS["ddpm"]:
        wanted["variance_type"] = [LEARNED]
    for name, allowed in wanted.items():
        if fields.get(name) not in allowed:
            raise ConfigError(
                f"the {class_name} has {name} {ascii(fields.get(name))[:80]}; to sample from "
                f"FEAT it needs {' or '.join(map(str, allowed))}"
            )
    diffusion = validate(
        DiffusionConfig,
        {
            "num_timesteps": fields.get("num_train_timesteps"),
            "beta_start": fields.get("beta_start"),
            "beta_end": fields.get("beta_end"),
            "prediction": _PREDICTIONS[fields["prediction_type"]],
        },
        f"the {class_name}",
    )
    if diffusion.num_timesteps > _MOST_TIMESTEPS:
        raise ConfigError(
            f"the {class_name} has num_train_timesteps {diffusion.num_timesteps}; at most "
            f"{_MOST_TIMESTEPS} make sense"
        )
    return diffusion


def _class(name: str) -> Any:  # noqa: ANN401
    import diffusers

    return getattr(diffusers, name)


def _with_steps(scheduler: Any, steps: int) -> Any:  # noqa: ANN401
    with warnings.catch_warnings():
        # Some schedulers pass a tensor to numpy in a way that numpy 2 deprecates.
        warnings.filterwarnings("ignore", message="__array__", category=DeprecationWarning)
        scheduler.set_timesteps(steps)
    return scheduler
