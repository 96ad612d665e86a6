"""``feat-fed init``: the configuration of a study's server, or of a hospital, to start from."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from feat_fed.atomic import write_bytes_atomically
from feat_fed.cli.completion import studies
from feat_fed.cli.console import say
from feat_fed.cli.questions import Questions, field_of, optional, words, yes_or_no
from feat_fed.config import (
    FederationConfig,
    SiteConfig,
    StudyConfig,
    built_in_studies,
    load_federation,
    load_study,
    validate,
)
from feat_fed.config.starting import federation_yaml, new_study, site_yaml, study_yaml
from feat_fed.errors import ConfigError

app = typer.Typer(
    help="Write a commented configuration to start from, by asking a few questions (or by flags).",
    no_args_is_help=True,
)

_PORT = 9443
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: flags and defaults.")]


@app.command()
def server(
    federation: Annotated[
        Path, typer.Option(help="Where to write the federation's file; kept if it is there.")
    ] = Path("federation.yaml"),
    study: Annotated[Path, typer.Option(help="Where to write the study.")] = Path("study.yaml"),
    address: Annotated[
        str | None, typer.Option(help="HOST:PORT by which hospitals reach this server.")
    ] = None,
    site: Annotated[
        list[str] | None, typer.Option(help="A hospital's name; again for more.")
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="A built-in study, or a YAML file, to start from.", autocompletion=studies
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The study's name.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of the study.")] = None,
    min_sites: Annotated[
        int | None, typer.Option(help="Hospitals without which no round starts.")
    ] = None,
    epsilon: Annotated[
        float | None,
        typer.Option(help="That the study may spend of each patient (DP-SGD); unset: no DP-SGD."),
    ] = None,
    secure_aggregation: Annotated[
        bool | None,
        typer.Option(
            "--secure-aggregation/--no-secure-aggregation",
            help="Whether the server sees sums of updates only; takes three hospitals.",
        ),
    ] = None,
    yes: Yes = False,
) -> None:
    """Write federation.yaml and study.yaml for the coordinator of a study.

    Every key is there with its explanation; what was not asked is commented out. Nothing that
    exists is replaced: beside a federation's file that is there, a further study is written.
    """
    for file in (federation, study):
        _require_folder(file)
    _require_new(study, "--study")
    ask = Questions.of_terminal(yes=yes)
    found = _federation(ask, federation, address, site)
    answers = _study(ask, study, base, name, rounds)
    secure = len(found.sites) >= 3 and ask.answer(
        "Secure aggregation, so that the server sees sums of updates only (yes or no)",
        yes_or_no,
        flag="--secure-aggregation",
        given=None if secure_aggregation is None else "yes" if secure_aggregation else "no",
        default="no",
    )
    if secure_aggregation and not secure:
        raise ConfigError(
            f"--secure-aggregation needs three hospitals, and there are {len(found.sites)}: of "
            "two, each could subtract its own update"
        )
    tree = new_study(
        answers["base"],
        name=answers["name"],
        rounds=answers["rounds"],
        min_sites=ask.answer(
            f"Hospitals without which no round starts, of {len(found.sites)}",
            _at_most(len(found.sites), least=3 if secure else 1),
            flag="--min-sites",
            given=None if min_sites is None else str(min_sites),
            default=str(len(found.sites)),
        ),
        epsilon=ask.answer(
            "Epsilon that may be spent of each patient, such as 8 (empty: no DP-SGD)",
            optional(field_of(StudyConfig, "privacy.patient.epsilon", yaml.safe_load)),
            flag="--epsilon",
            given=None if epsilon is None else str(epsilon),
            default="",
        ),
        secure_aggregation=secure,
    )
    _require_reachable(tree)
    if not federation.exists():
        _write(federation, federation_yaml(address=found.address, sites=found.sites))
    _write(study, study_yaml(tree, base=answers["source"]))
    _tell_coordinator(federation, study)


@app.command()
def site(
    site_config: Annotated[Path, typer.Option(help="Where to write the site's file.")] = Path(
        "site.yaml"
    ),
    token: Annotated[
        str | None,
        typer.Option(help="The coordinator's token (text or file): it says --name and --address."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="This hospital's name, as the coordinator knows it.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="HOST:PORT of the study's server.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="A folder of clips; again for more.")
    ] = None,
    patient_pattern: Annotated[
        str | None,
        typer.Option(help="Regular expression with one group: the patient in a video's path."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu or cuda.")] = None,
    hours: Annotated[
        list[str] | None,
        typer.Option(help="When training may run, such as 22:00-06:00; again for more."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="patient, central or secure-aggregation: demanded of every study."),
    ] = None,
    max_epsilon: Annotated[
        float | None,
        typer.Option(help="That all studies together may spend of a patient here, by DP-SGD."),
    ] = None,
    yes: Yes = False,
) -> None:
    """Write site.yaml for a hospital.

    Every key is there with its explanation; what was not asked is commented out. Nothing that
    exists is replaced. `feat-fed join` makes the key and asks to take part afterwards.
    """
    _require_folder(site_config)
    _require_new(site_config, "--site-config")
    ask = Questions.of_terminal(yes=yes)
    name, address = _link(ask, token, name, address)
    paths = ask.answer(
        "Folders of clips",
        _folders,
        flag="--data",
        given=None if data is None else "\n".join(map(str, data)),
        default=None,
    )
    sections: dict[str, dict[str, Any]] = {
        "data": {} if patient_pattern is None else {"patient_pattern": patient_pattern},
        "compute": {
            "device": ask.answer(
                "Train on (auto, cpu or cuda)",
                field_of(SiteConfig, "compute.device"),
                flag="--device",
                given=device,
                default="auto",
            )
        },
        "limits": {
            "hours": ask.answer(
                "Hours in which training may run, such as 22:00-06:00 (empty: always)",
                field_of(SiteConfig, "limits.hours", words),
                flag="--hours",
                given=None if hours is None else " ".join(hours),
                default="",
            )
        },
        "privacy": {
            "require": ask.answer(
                "Protection to demand of every study: patient, central, secure-aggregation "
                "(empty: none)",
                field_of(SiteConfig, "privacy.require", words),
                flag="--require",
                given=None if require is None else " ".join(require),
                default="",
            ),
            "max_epsilon": ask.answer(
                "Epsilon that all studies together may spend of a patient here, such as 8 "
                "(empty: no limit)",
                optional(field_of(SiteConfig, "privacy.max_epsilon", yaml.safe_load)),
                flag="--max-epsilon",
                given=None if max_epsilon is None else str(max_epsilon),
                default="",
            ),
        },
    }
    _write(
        site_config,
        site_yaml(site_config, name=name, address=address, data=paths, sections=_set(sections)),
    )
    _tell_hospital(site_config, token or f"{name}.token")


def _federation(
    ask: Questions, file: Path, address: str | None, sites: list[str] | None
) -> FederationConfig:
    if file.exists():
        if address is not None or sites:
            raise ConfigError(
                f"{file} exists and is kept: leave --address and --site out, or give another file "
                "with --federation"
            )
        found = load_federation(file)
        say(f"{file} is there and is kept: {', '.join(found.sites)} at {found.address}")
        return found
    tree = {
        "address": ask.answer(
            "HOST:PORT by which hospitals reach this server",
            field_of(FederationConfig, "address"),
            flag="--address",
            given=address,
            default=f"{socket.gethostname()}:{_PORT}",
        ),
        "sites": ask.answer(
            "Names of the hospitals, such as hospital-a hospital-b hospital-c",
            field_of(FederationConfig, "sites", str.splitlines if sites else words),
            flag="--site",
            given="\n".join(sites) if sites else None,
            default=None,
        ),
    }
    return validate(FederationConfig, tree, "the federation")


def _study(
    ask: Questions, file: Path, base: str | None, name: str | None, rounds: int | None
) -> dict[str, Any]:
    built_in = built_in_studies()
    source, study = ask.answer(
        f"Study to start from: {', '.join(built_in)} or a YAML file (demo: minutes on a CPU)",
        lambda text: (text.strip(), load_study(text.strip())),
        flag="--base",
        given=base,
        default="demo",
    )
    return {
        "source": source,
        "base": study,
        "name": ask.answer(
            "Name of the study",
            field_of(StudyConfig, "name"),
            flag="--name",
            given=name,
            default=file.stem.lower(),
        ),
        "rounds": ask.answer(
            "Rounds",
            field_of(StudyConfig, "rounds", yaml.safe_load),
            flag="--rounds",
            given=None if rounds is None else str(rounds),
            default=str(study.rounds),
        ),
    }


def _link(
    ask: Questions, token: str | None, name: str | None, address: str | None
) -> tuple[str, str]:
    if token is not None:
        if name is not None or address is not None:
            raise ConfigError("the token says --name and --address: leave them out")
        from feat_fed_client.join import read_token

        found = read_token(token)
        say(f"the token is for {found.site}, and the server is {found.address}")
        return found.site, found.address
    return (
        ask.answer(
            "This hospital's name, as the coordinator knows it",
            field_of(SiteConfig, "name"),
            flag="--name",
            given=name,
            default=None,
        ),
        ask.answer(
            "HOST:PORT of the study's server",
            field_of(SiteConfig, "server.address"),
            flag="--address",
            given=address,
            default=None,
        ),
    )


def _at_most(sites: int, *, least: int) -> Any:  # noqa: ANN401
    read = field_of(StudyConfig, "sites.minimum", yaml.safe_load)

    def within(text: str) -> int:
        number = int(read(text))
        if not least <= number <= sites:
            why = " with secure aggregation" if least > 1 else ""
            most = "" if least == sites else f" to {sites}"
            raise ConfigError(f"{number} does not go{why}: write {least}{most}")
        return number

    return within


def _folders(text: str) -> list[Path]:
    paths = [Path(each).expanduser() for each in _lines_or_words(text)]
    if not paths:
        raise ConfigError("no folder is named; give the one that holds the clips")
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path} does not exist; give the folder that holds the clips")
        if path.is_dir() and not any(path.iterdir()):
            raise ConfigError(f"{path} is empty; give the folder that holds the clips")
    return paths


def _lines_or_words(text: str) -> list[str]:
    """Split at ends of lines; an answer on one line that is no path is split at its spaces."""
    lines = [each for each in text.splitlines() if each.strip()]
    return lines if len(lines) != 1 or Path(lines[0]).expanduser().exists() else words(text)


def _set(sections: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Leave out what was not answered."""
    said = {
        name: {key: value for key, value in each.items() if value not in (None, [])}
        for name, each in sections.items()
    }
    return {name: each for name, each in said.items() if each}


def _require_reachable(tree: dict[str, Any]) -> None:
    """Find out now, and not at the start, whether the epsilon can be reached."""
    if "privacy" in tree:
        from feat_fed.privacy.resolve import resolved

        resolved(validate(StudyConfig, tree, "the new study"))


def _require_folder(file: Path) -> None:
    if not file.parent.is_dir():
        raise ConfigError(f"the folder {file.parent} does not exist; make it first")


def _require_new(file: Path, flag: str) -> None:
    if file.exists():
        raise ConfigError(f"{file} exists and is kept: edit it, or give another with {flag}")


def _write(file: Path, text: str) -> None:
    write_bytes_atomically(file, text.encode())
    say(f"wrote {file}")


def _tell_coordinator(federation: Path, study: Path) -> None:
    usual = federation == Path("federation.yaml")
    say(
        "look through them; what was not asked is there with its default. Next:\n"
        f"  feat-fed provision {federation}\n"
        f"  feat-fed check {federation} --study {study}\n"
        f"  feat-fed server --study {study}{'' if usual else f' --federation {federation}'}"
    )


def _tell_hospital(file: Path, token: str) -> None:
    config = "" if file == Path("site.yaml") else f" --site-config {file}"
    shown = token if len(token) < 100 else "TOKEN"
    say(
        "look through it; what was not asked is there with its default. Next:\n"
        f"  feat-fed join {shown}{config}\n"
        f"  feat-fed data scan {file}\n"
        f"  feat-fed check {file}\n"
        f"  feat-fed client --site-config {file}"
    )
