"""Flower's ServerApp of a study: the round loop over the run's folder.

Flower loads :data:`app` by name from what is installed at the server.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from feat_fed.errors import FeatFedError
from feat_fed.report.run_store import RunStore
from feat_fed_server import RUN_FOLDER
from feat_fed_server.roster import KeyRoster, Roster
from feat_fed_server.rounds import RoundLoop


def make_app(store_root: Path, roster: Roster) -> ServerApp:
    """Return a ServerApp that runs the study of a run's folder."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run_study(grid, RunStore(store_root), roster)

    return app


def run_study(grid: Grid, store: RunStore, roster: Roster) -> None:
    """Run the rounds; leave the reason in the run's folder when they cannot go on."""
    try:
        RoundLoop(grid, roster, store).run()
    except FeatFedError as error:
        # The summary is shown in the report, which is given away: no path may get there.
        failed = {"state": "failed", "message": error.shareable()}
        store.write_summary(store.summary().model_copy(update=failed))
        raise


app = ServerApp()


@app.main()
def _main(grid: Grid, context: Context) -> None:
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s: %(message)s"
    )
    store = RunStore(Path(os.environ[RUN_FOLDER]))
    run_study(grid, store, KeyRoster.load(store.roster))
