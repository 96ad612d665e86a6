"""``feat-fed backup`` and ``feat-fed restore``: a coordinator's state, while its server runs."""

from __future__ import annotations

import datetime as dt
import shlex
from pathlib import Path
from typing import Annotated

import typer

from feat_fed.archive import Contents, read_contents, unpack
from feat_fed.cli.console import say
from feat_fed.errors import ConfigError


def backup(
    source: Annotated[
        Path,
        typer.Argument(help="A run's folder, or a federation's YAML file.", show_default=False),
    ],
    out: Annotated[
        Path,
        typer.Argument(help="The file to write, or a folder for one with the time in its name."),
    ] = Path(),
    private_keys: Annotated[
        bool,
        typer.Option(
            "--private-keys",
            help="Of a federation: also the CA's and the server's private keys and unused tokens. "
            "Whoever has them can be this server.",
        ),
    ] = False,
) -> None:
    """Write a backup of a run or a federation; the server may go on meanwhile.

    A run's is as it was between two rounds.
    """
    is_federation = source.is_file()
    out = out / _file_name(source) if out.is_dir() else out
    if is_federation:
        from feat_fed_server.federation_backup import back_up_federation

        back_up_federation(source, out, private_keys=private_keys)
        say(f"{out}: {source} and the keys of its sites" + _of_keys(private_keys))
        return
    if private_keys:
        raise ConfigError(
            f"--private-keys: {source} is no federation's file, and a run holds none; leave it out"
        )
    from feat_fed.train.run_backup import back_up_run

    last = back_up_run(source, out, tell=say)
    size_mb = out.stat().st_size / 1e6
    say(f"{out}: {source} after round {last}, {size_mb:.1f} MB; a round under way is not in it")


def restore(
    path: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `backup` wrote.")],
    to: Annotated[
        Path | None, typer.Argument(help="A folder that does not exist, such as runs/heart.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option(help="Compare every file with its SHA-256, write nothing.")
    ] = False,
) -> None:
    """Make a run's or a federation's folder of a backup; nothing that exists is replaced."""
    if dry_run:
        contents = unpack(path, None)
        say(f"{path} is whole: {len(contents.files)} files, {_what(contents)}")
        return
    if to is None:
        raise ConfigError("name the folder to restore into, such as runs/heart, or add --dry-run")
    to = to.absolute()
    if read_contents(path).kind == "run":
        from feat_fed.train.run_backup import restore_run

        contents = restore_run(path, to)
        say(f"restored {to}: {_what(contents)}")
        _tell_of_run(to)
    else:
        from feat_fed_server.federation_backup import restore_federation

        contents = restore_federation(path, to)
        say(f"restored {to}: {_what(contents)}")
        _tell_of_federation(to, contents)


def _file_name(source: Path) -> str:
    name = "federation" if source.is_file() else source.absolute().name
    return f"{name}-{dt.datetime.now(dt.UTC):%Y%m%dT%H%M%SZ}.tar"


def _of_keys(private_keys: bool) -> str:
    if private_keys:
        return ", and ITS PRIVATE KEYS: keep this file as you keep those"
    return "; no private keys (--private-keys puts them in)"


def _what(contents: Contents) -> str:
    what = "a federation" if contents.kind == "federation" else f"study {contents.name}"
    at = "" if contents.round is None else f" after round {contents.round}"
    when = f"{contents.made_at:%Y-%m-%d %H:%M} UTC"
    return f"{what}{at}, backed up on {when} by feat-fed {contents.version}"


def _tell_of_run(to: Path) -> None:
    from feat_fed.report.run_store import RunStore

    runs, name = shlex.quote(str(to.parent)), shlex.quote(to.name)
    study = shlex.quote(str(to / "study.yaml"))
    say(
        f"go on with: feat-fed server --runs {runs} --run {name} --study {study} "
        "--federation federation.yaml"
    )
    privacy = RunStore(to).study.privacy
    if privacy.central is not None:
        say(
            "warning: rounds that were completed after this backup have spent of the study's "
            "privacy.central.epsilon, too, and are not counted here: lower the study's rounds "
            "by their number"
        )
    if privacy.secure_aggregation is not None:
        say(
            "warning: hospitals let no round be unmasked twice: where this study unmasked a round "
            "after this backup, it cannot go on, and a new run is needed"
        )


def _tell_of_federation(to: Path, contents: Contents) -> None:
    file = to / "federation.yaml"
    say(
        f"to do: revoke again what was revoked after {contents.made_at:%Y-%m-%d %H:%M} UTC "
        f"(`feat-fed provision revoke {file} NAME`), approve again what was approved"
    )
    if not contents.private_keys:
        say(
            f"to do: put ca.key back into {to / 'tls'}; then `feat-fed provision renew {file}` "
            "makes the server's key and certificate; without ca.key a new CA has to reach every "
            "hospital"
        )
