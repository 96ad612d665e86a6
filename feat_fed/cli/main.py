"""``feat-fed``: one entry, one way that errors look."""

from __future__ import annotations

import errno
import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from feat_fed.cli import (
    audit,
    backup,
    check,
    checkpoints,
    data,
    demo,
    downstream,
    evaluate,
    identity,
    init,
    privacy,
    provision,
    release,
    run,
    simulate,
    site,
    site_control,
    status,
    study,
    study_sites,
    sweep,
    train_local,
)
from feat_fed.cli.argument_help import keep_argument_help
from feat_fed.cli.console import console, fail, say
from feat_fed.cli.interrupts import deliver_lost
from feat_fed.errors import FeatFedError, MissingExtraError

keep_argument_help()
app = typer.Typer(
    name="feat-fed",
    help="Hospitals train one medical-video generator together; no video leaves a hospital.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; anywhere on the line.")
    ] = False,
) -> None:
    """Hospitals train one medical-video generator together; no video leaves a hospital."""


_FIRST, _STUDY, _SITE = "Start here", "The coordinator of a study", "A hospital"
_RESEARCH = "A researcher"
app.command(rich_help_panel=_FIRST)(demo.demo)
app.add_typer(init.app, name="init", rich_help_panel=_FIRST)
app.command(rich_help_panel=_FIRST)(run.version)
app.command(rich_help_panel=_FIRST)(status.status)
app.add_typer(audit.app, name="audit", rich_help_panel=_FIRST)
app.add_typer(privacy.app, name="privacy", rich_help_panel=_FIRST)
app.add_typer(provision.app, name="provision", rich_help_panel=_STUDY)
app.command(rich_help_panel=_STUDY)(study.server)
app.add_typer(study_sites.app, name="study", rich_help_panel=_STUDY)
app.command(rich_help_panel=_STUDY)(run.report)
app.command(rich_help_panel=_STUDY)(release.release)
app.command(rich_help_panel=_STUDY)(backup.backup)
app.command(rich_help_panel=_STUDY)(backup.restore)
app.command(rich_help_panel=_SITE)(identity.join)
app.command(rich_help_panel=_SITE)(identity.keygen)
app.command(rich_help_panel=_SITE)(check.check)
app.command(rich_help_panel=_SITE)(site.client)
app.command(rich_help_panel=_SITE)(train_local.train_local)
app.add_typer(data.app, name="data", rich_help_panel=_SITE)
app.add_typer(site_control.app, name="site", rich_help_panel=_SITE)
app.command(rich_help_panel=_RESEARCH)(simulate.simulate)
app.command(rich_help_panel=_RESEARCH)(sweep.sweep)
app.command(rich_help_panel=_RESEARCH)(run.sample)
app.command(rich_help_panel=_RESEARCH)(evaluate.evaluate)
app.add_typer(downstream.app, name="downstream", rich_help_panel=_RESEARCH)
app.command(rich_help_panel=_RESEARCH)(checkpoints.import_checkpoint)
app.command(rich_help_panel=_RESEARCH)(checkpoints.export)


_EXTRAS = {
    "init": "client",
    "provision": "server",
    "server": "server",
    "study": "server",
    "release": "server",
    "backup": "server",
    "restore": "server",
    "join": "client",
    "keygen": "client",
    "check": "client",
    "client": "client",
    "train-local": "client",
    "data": "client",
    "downstream": "client",
    "site": "client",
    "status": "client",
    "evaluate": "client",
    "simulate": "simulation",
    "sweep": "simulation",
}
"""Which extra a command belongs to."""


_NOT_ALLOWED = (
    "this user may not read or write it: run the command as the account that it belongs to, "
    "or give this one the rights"
)
_MENDS = {
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: "name a place that can be written",
    errno.ENOSPC: "free some disk, and give the same command",
    errno.EDQUOT: "free some disk, and give the same command",
}
"""What a person can do about a file, where a command has no better word for it."""


class _Terminated(BaseException):
    """SIGTERM, as an exception, so that everything that was started is stopped."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def run_app(arguments: list[str]) -> int:
    """Run one command and return the exit status; a user's mistake is one message."""
    debug = "--debug" in arguments
    arguments = [each for each in arguments if each != "--debug"]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        # Click gives an exit status back, of Ctrl-C too, where it does not raise.
        status = app(arguments, standalone_mode=False)
        return status if isinstance(status, int) else 0
    except FeatFedError as error:
        if debug:
            console.print_exception()
        fail(str(error))
        return 1
    except ModuleNotFoundError as error:
        if debug or error.name is None or error.name.startswith("feat_fed."):
            raise
        fail(str(missing_extra(error.name, arguments[0])))
        return 1
    except typer.Exit as leave:
        return leave.exit_code
    except typer.Abort:
        return 130
    except (KeyboardInterrupt, _Terminated):
        say("stopped")
        return 130
    except OSError as error:
        if debug or error.filename is None or error.errno not in _MENDS:
            raise
        fail(f"{error.filename}: {error.strerror}; {_MENDS[error.errno]}")
        return 1
    except Exception as error:
        show = getattr(error, "show", None)  # a wrong flag: Click says it best
        if show is None:
            raise
        show()
        return int(getattr(error, "exit_code", 2))


def missing_extra(module: str, command: str) -> MissingExtraError:
    """Say which extra brings what a command needs."""
    extra = _EXTRAS.get(command, "all")
    return MissingExtraError(
        f"`feat-fed {command}` needs {module.split('.')[0]}, which is not installed: "
        f"pip install -c constraints.txt 'feat-fed[{extra}]'"
    )


def run_main() -> None:
    """Entry point of the installed command."""
    deliver_lost({KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM})
    sys.exit(run_app(sys.argv[1:]))
