"""A sweep: one study and one simulation, and what is varied of them, a line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from feat_fed.config.base import StrictModel
from feat_fed.config.load import StudySource, problems, read_study, read_yaml, validate
from feat_fed.config.simulation import SimulationConfig
from feat_fed.config.study import Name, StudyConfig
from feat_fed.errors import ConfigError

_OF_SIMULATION = "simulation."


class SweepConfig(StrictModel):
    """What a sweep's file holds; paths count from its folder."""

    name: Name = Field(description="of the sweep: its runs lie in `runs/NAME`")
    study: str = Field("demo", description="a YAML file or the name of a built-in study")
    rounds: int | None = Field(None, ge=1, description="null: the study's own number")
    simulation: dict[str, Any] = Field(
        {}, description="what hospitals there are: keys as in the file of `simulate --scenario`"
    )
    baselines: tuple[Literal["centralised", "local-only"], ...] = Field(
        (), description="trained for each variation and compared in its report"
    )
    variations: dict[Name, dict[str, Any] | None] = Field(
        min_length=1,
        description="by name, what is different: dotted keys of the study such as "
        "`training.proximal_mu: 0.01`, or of the simulation (`simulation.partition.alpha`); "
        "`{}`: nothing",
    )


@dataclass(frozen=True)
class Variation:
    """One line of a sweep."""

    name: str
    changes: Mapping[str, Any]
    study: StudyConfig
    simulation: SimulationConfig
    simulation_tree: Mapping[str, Any]
    """The same as it was written, its paths absolute."""


def load_sweep(path: Path) -> tuple[SweepConfig, tuple[Variation, ...]]:
    """Read a sweep's file, and check every variation before any is run.

    Raises
    ------
    ConfigError
        That names the file, and of a variation the line and the key.
    """
    sweep = validate(SweepConfig, read_yaml(path), str(path))
    is_file = sweep.study.endswith((".yaml", ".yml"))
    source = read_study(path.resolve().parent / sweep.study if is_file else sweep.study)
    if sweep.rounds is not None:
        source = StudySource({**source.tree, "rounds": sweep.rounds}, source.name, source.base)
    source.resolved()
    lines = _lines(path)
    return sweep, tuple(
        _varied(path, sweep, source, name, changes or {}, lines)
        for name, changes in sweep.variations.items()
    )


Lines = Mapping[tuple[str, ...], int]
"""Where a variation, and a key of one, stands in the file, from 1."""


def _lines(path: Path) -> Lines:
    """Return the lines of the file's variations."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    found: dict[tuple[str, ...], int] = {}
    for place, line in _places(root, ()):
        if place[:1] != ("variations",) or not 2 <= len(place) <= 3:
            continue
        found[place[1:]] = line
    return found


def _places(node: object, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    if not isinstance(node, yaml.MappingNode) or len(above) > 2:
        return
    for key, value in node.value:
        place = (*above, str(key.value))
        yield place, key.start_mark.line + 1
        yield from _places(value, place)


def _varied(
    path: Path,
    sweep: SweepConfig,
    source: StudySource,
    name: str,
    changes: Mapping[str, Any],
    lines: Lines,
) -> Variation:
    study, simulation = deepcopy(dict(source.tree)), deepcopy(sweep.simulation)
    for key, value in changes.items():
        of_simulation = key.startswith(_OF_SIMULATION)
        _put(
            simulation if of_simulation else study,
            key.removeprefix(_OF_SIMULATION),
            value,
            where=f"{path}, line {lines[name, key]}: {key}",
        )
    for part in ("data", "manifest"):
        if isinstance(simulation.get(part), str):
            simulation[part] = str((path.resolve().parent / simulation[part]).resolve())
    with _blamed(path, name, changes, lines, StudyConfig):
        StudyConfig.model_validate(study)
    with _blamed(path, name, changes, lines, SimulationConfig, _OF_SIMULATION):
        config = SimulationConfig.model_validate(simulation)
    resolved = StudySource(study, source.name, source.base).resolved()
    return Variation(name, changes, resolved, config, simulation)


def _put(tree: dict[str, Any], key: str, value: object, *, where: str) -> None:
    *sections, last = key.split(".")
    for section in sections:
        below = {} if tree.get(section) is None else tree[section]
        if not isinstance(below, dict):
            raise ConfigError(f"{where}: {section} is {below!r}, which has nothing below it")
        tree[section] = below
        tree = below
    tree[last] = value


@contextmanager
def _blamed(
    path: Path,
    name: str,
    changes: Mapping[str, Any],
    lines: Lines,
    model: type[BaseModel],
    prefix: str = "",
) -> Iterator[None]:
    """Say of a wrong field in which line the variation sets it; of others, where it begins."""
    try:
        yield
    except ValidationError as error:
        told = []
        for each in problems(model, error):
            field = f"{prefix}{each.field}"
            key = next((key for key in changes if f"{field}.".startswith(f"{key}.")), None)
            key = key or next((key for key in changes if f"{key}.".startswith(f"{field}.")), None)
            line = lines[(name,) if key is None else (name, key)]
            told.append(f"{path}, line {line}, variation {name}: {prefix}{each.text}")
        raise ConfigError("\n".join(told)) from None
