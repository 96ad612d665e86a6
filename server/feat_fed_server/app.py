"""Flower's ServerApp of a study: the round loop over the run's folder.

Flower loads :data:`app` by name from what is installed at the server.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from feat_fed.errors import FeatFedError
from feat_fed.log_file import rotating_handler
from feat_fed.report.run_store import RunStore, lock_run
from feat_fed_server import RUN_FOLDER
from feat_fed_server.roster import KeyRoster, Roster
from feat_fed_server.rounds import RoundLoop

log = logging.getLogger(__name__)

_LOCK_WAIT_SEC = 60.0


def make_app(store_root: Path, roster: Roster) -> ServerApp:
    """Return a ServerApp that runs the study of a run's folder."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run_study(grid, RunStore(store_root), roster)

    return app


def run_study(grid: Grid, store: RunStore, roster: Roster) -> None:
    """Run the rounds; leave the reason in the run's folder when they cannot go on."""
    logging.getLogger("flwr").setLevel(logging.WARNING)  # a line for each group of tensors
    try:
        RoundLoop(grid, roster, store).run()
    except FeatFedError as error:
        log.error("%s", error)
        # The summary is shown in the report, which is given away: no path may get there.
        failed = {"state": "failed", "message": error.shareable()}
        store.write_summary(store.summary().model_copy(update=failed))
        raise
    except Exception:
        log.exception("the round loop broke")
        raise


app = ServerApp()


@app.main()
def _main(grid: Grid, context: Context) -> None:
    store = RunStore(Path(os.environ[RUN_FOLDER]))
    # Flower sends what this process prints to the SuperLink, so the log is a file of its own.
    handler = rotating_handler(store.logs / "serverapp.log")
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line each poll
    # A ServerApp of a server that was killed may need some seconds to notice.
    with lock_run(store.root, "rounds", wait_sec=_LOCK_WAIT_SEC):
        run_study(grid, store, KeyRoster.load(store.roster))
