"""``feat-fed evaluate --watch``: the evaluator by hand, here or on another machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from click.core import ParameterSource

from feat_fed.cli.console import say
from feat_fed.cli.network_files import network_files
from feat_fed.config import EvaluationConfig, validate
from feat_fed.errors import ConfigError
from feat_fed.evaluator.priority import step_back
from feat_fed.report import RunStore

_IN_PLACE_OF_THE_STUDYS = (
    *("benchmark", "folder", "split", "partial", "trained_on", "even_trained_on", "protocol"),
    *("num_clips", "batch_clips", "device"),
)


def given_flags(context: typer.Context) -> dict[str, Any]:
    """Return the values of the flags that somebody wrote, by parameter; paths are texts."""
    return {
        name: value
        for name, value in context.params.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def watch_run(given: Mapping[str, Any]) -> None:
    """Measure a run's rounds as its study says, but for the flags.

    Raises
    ------
    ConfigError
        If a flag says nothing of a whole run, or they do not go together.
    """
    flags = dict(given)
    flags.pop("watch", None)
    once = bool(flags.pop("once", False))
    if "run" not in flags:
        raise ConfigError("--watch and --once are of a run; give its folder with --run")
    run, codec_weights = Path(flags.pop("run")), flags.pop("codec_weights", None)
    networks = network_files(flags.pop("network", []))
    if strangers := sorted(flags.keys() - {*_IN_PLACE_OF_THE_STUDYS}):
        flag = strangers[0].removesuffix("_number").removeprefix("as_").replace("_", "-")
        raise ConfigError(f"--{flag} says nothing of --watch and --once, which do all rounds alike")
    study = RunStore(run).study.evaluation
    base = study.model_dump() if study else {}
    files = base.get("networks", {}) | {name: each.model_dump() for name, each in networks.items()}
    config = validate(EvaluationConfig, {**base, **flags, "networks": files}, "the evaluation")
    step_back(config.niceness)
    from feat_fed.evaluator.watch import watch

    watch(run, config, codec_weights=codec_weights and Path(codec_weights), once=once, tell=say)
    say(f"all that is there of {run} is measured")
