"""YAML files into frozen models, with messages a person can act on."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from feat_fed.config.federation import FederationConfig
from feat_fed.config.simulation import SimulationConfig
from feat_fed.config.site import ADDRESS_PATTERN, SiteConfig
from feat_fed.config.study import NAME_PATTERN, StudyConfig
from feat_fed.errors import ConfigError

ModelT = TypeVar("ModelT", bound=BaseModel)

_FORMS = {
    NAME_PATTERN: "a name has small letters, digits, - and _, and begins with a letter or a digit",
    ADDRESS_PATTERN: "write HOST:PORT, such as coordinator.example.org:9443, without https://",
}
"""What a pattern asks for, in words."""


@dataclass(frozen=True)
class StudySource:
    """A study as somebody wrote it, before anything is filled in."""

    tree: Mapping[str, Any]
    name: str
    """Of the file or the built-in study, for messages."""
    base: Path | None
    """Folder from which paths count."""

    def resolved(self, **overrides: object) -> StudyConfig:
        """Return the study; ``overrides`` are top-level fields in place of those written.

        Raises
        ------
        ConfigError
            That names every wrong field.
        """
        study = validate(StudyConfig, {**self.tree, **overrides}, self.name)
        if self.base is None:
            return study
        evaluation = study.evaluation and study.evaluation.absolute(self.base)
        weights = study.codec.weights and _absolute(self.base, study.codec.weights)
        codec = study.codec.model_copy(update={"weights": weights})
        return study.model_copy(update={"codec": codec, "evaluation": evaluation})


def load_study(source: str | Path, **overrides: object) -> StudyConfig:
    """Read a study by file or by the name of a built-in one (:func:`built_in_studies`).

    ``overrides`` are top-level fields that replace the file's, such as ``rounds=100``. Paths, of
    the codec's weights and of the evaluation's files, are counted from the file's folder.
    """
    return read_study(source).resolved(**overrides)


def read_study(source: str | Path) -> StudySource:
    """Read a study as :func:`load_study` does, without a look at its fields."""
    path = Path(source)
    if path.suffix not in {".yaml", ".yml"} and str(source) in built_in_studies():
        resource = resources.files("feat_fed.config") / "studies" / f"{source}.yaml"
        name = f"built-in study {source}"
        return StudySource(parse_yaml(resource.read_text(encoding="utf-8"), name), name, None)
    if not path.is_file():
        raise ConfigError(
            f"no study at {source}: give a YAML file or one of the built-in studies "
            f"({', '.join(built_in_studies())})"
        )
    return StudySource(read_yaml(path), str(path), path.resolve().parent)


def load_site(path: Path) -> SiteConfig:
    """Read a site's file and make its paths absolute, counted from the file's folder."""
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist; `feat-fed init site` or `feat-fed join` writes a site's file, "
            "or name another"
        )
    site = validate(SiteConfig, read_yaml(path), str(path))
    base = path.resolve().parent
    return site.model_copy(
        update={
            "store": _absolute(base, site.store),
            "codec_weights": site.codec_weights and _absolute(base, site.codec_weights),
            "data": site.data.model_copy(
                update={"paths": tuple(_absolute(base, each) for each in site.data.paths)}
            ),
            "server": site.server
            and site.server.model_copy(
                update={
                    "ca_certificate": _absolute(base, site.server.ca_certificate),
                    "private_key": _absolute(base, site.server.private_key),
                }
            ),
        }
    )


def load_federation(path: Path) -> FederationConfig:
    """Read the coordinator's list of sites."""
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist; `feat-fed init server` writes it, `feat-fed provision` makes "
            "what lies beside it; or name another"
        )
    return validate(FederationConfig, read_yaml(path), str(path))


def load_simulation(path: Path | None, **flags: Any) -> SimulationConfig:  # noqa: ANN401
    """Read a simulation's file, and put the flags that are set (not None) over it.

    Paths in the file are counted from its folder, those of flags from the current one. Flags of
    ``partition`` and ``resources`` are given as mappings of their own.
    """
    tree = {} if path is None else read_yaml(path)
    source = "the simulation's flags" if path is None else str(path)
    base = Path() if path is None else path.resolve().parent
    for key in ("data", "manifest"):
        if isinstance(tree.get(key), str):
            tree[key] = _absolute(base, Path(tree[key]))
    for key, value in flags.items():
        if isinstance(value, dict):
            value = {name: each for name, each in value.items() if each is not None}
            below = tree.get(key)
            tree[key] = {**below, **value} if isinstance(below, dict) else value or below or {}
        elif value is not None:
            tree[key] = value
    return validate(SimulationConfig, tree, source)


def built_in_studies() -> list[str]:
    """Names of the studies that ship with the package."""
    folder = resources.files("feat_fed.config") / "studies"
    return sorted(each.name[:-5] for each in folder.iterdir() if each.name.endswith(".yaml"))


def dump_yaml(config: BaseModel) -> str:
    """Return the resolved configuration as YAML that loads back to an equal model."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the file's top-level mapping."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    return parse_yaml(text, str(path))


def parse_yaml(text: str, source: str) -> dict[str, Any]:
    """Return the text's top-level mapping; ``source`` names it in messages."""
    try:
        tree = yaml.load(text, _OneOfEach)  # noqa: S506  # a SafeLoader
    except _TwiceError as error:
        raise ConfigError(f"{source}, {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{source} must be a mapping of field: value at its top level")
    return tree


class _TwiceError(Exception):
    """A key stands twice in one mapping."""


class _OneOfEach(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise _TwiceError(
                    f"line {line}: {key.value} is there twice (line {lines[key.value]}); "
                    "put both into one, or rename or remove one"
                )
            lines[key.value] = line
        return super().construct_mapping(node, deep)


def validate(model: type[ModelT], tree: Mapping[str, Any], source: str) -> ModelT:
    """Build the model, or raise one :class:`ConfigError` that names every wrong field."""
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        lines = [f"  {each.text}" for each in problems(model, error)]
        raise ConfigError("\n".join([f"{source} is not a valid configuration:", *lines])) from None


def fault_in(model: type[BaseModel], field: str, value: object) -> str | None:
    """Return what is wrong with one field (``sites.minimum``), whatever the others are.

    Rules about several fields are not looked at.
    """
    parts = tuple(field.split("."))
    tree = value
    for part in reversed(parts):
        tree = {part: tree}
    try:
        model.model_validate(tree)
    except ValidationError as error:
        for each in error.errors(include_url=False):
            if each["loc"][: len(parts)] == parts:
                return _explain(model, each)
    return None


@dataclass(frozen=True)
class Problem:
    """What is wrong with a configuration at one place."""

    field: str
    """Dotted; empty where several fields do not go together."""
    text: str


def problems(model: type[BaseModel], error: ValidationError) -> list[Problem]:
    """Return what is wrong, in words that a person can act on."""
    return [
        Problem(".".join(map(str, each["loc"])), _explain(model, each))
        for each in error.errors(include_url=False)
    ]


def _explain(model: type[BaseModel], error: Any) -> str:  # noqa: ANN401
    where = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(error["loc"][-1]), _fields(model, error["loc"][:-1]))
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{where}: unknown field{hint}"
    if error["type"] == "missing":
        return f"{where}: this field is required"
    if error["type"] == "model_type":
        names = ", ".join(_fields(model, error["loc"]))
        wrong = "is empty" if error["input"] is None else f"is {error['input']!r}"
        return f"{where} {wrong}: write its fields below it, indented ({names})"
    if error["type"] == "string_pattern_mismatch":
        form = _FORMS.get(error["ctx"]["pattern"], error["msg"])
        return f"{where}: {error['input']!r}: {form}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where}: {message} (it is {error['input']!r})"


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    for part in path:
        field = model.model_fields.get(str(part))
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = [each for each in kinds if isinstance(each, type) and issubclass(each, BaseModel)]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _absolute(base: Path, path: Path) -> Path:
    return (base / path.expanduser()).resolve()
