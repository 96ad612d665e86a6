"""Flower's ServerApp of a study: the round loop over the run's folder.

Flower loads :data:`app` by name from what is installed at the server.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid import HttpGrid, http_grid

from feat_fed.errors import FeatFedError, StorageError
from feat_fed.inflating import inflate_within
from feat_fed.log_file import rotating_handler
from feat_fed.parts import PartFolder, share_parts
from feat_fed.report.run_store import RunStore
from feat_fed_server import RUN_ERRAND, RUN_FOLDER
from feat_fed_server.bounded_answers import most_answer_bytes
from feat_fed_server.releasing import ReleaseAsking, note_failure
from feat_fed_server.roster import FileRoster, Roster
from feat_fed_server.rounds import RoundLoop
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.serverapp_life import living

log = logging.getLogger(__name__)

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run_study(grid: Grid, store: RunStore, roster: Roster) -> None:
    """Run the rounds; leave the reason in the run's folder when they cannot go on."""
    logging.getLogger("flwr").setLevel(logging.WARNING)  # a line for each group of tensors
    try:
        RoundLoop(grid, roster, store).run()
    except FeatFedError as error:
        _note_failure(store, error)
        raise
    except OSError as error:
        if error.errno not in _DISK:
            log.exception("the round loop broke")
            raise
        full = StorageError(f"{store.root} cannot be written: {error}")
        _note_failure(store, full)
        raise full from error
    except Exception:
        log.exception("the round loop broke")
        raise


def ask_before_release(grid: Grid, store: RunStore, roster: Roster) -> None:
    """Ask the sites about generated clips; leave the reason when they cannot be asked."""
    logging.getLogger("flwr").setLevel(logging.WARNING)
    try:
        ReleaseAsking(grid, roster, store).run()
    except FeatFedError as error:
        log.error("%s", error)
        note_failure(store, error)
        raise
    except Exception:
        log.exception("the question broke")
        raise


def _note_failure(store: RunStore, error: FeatFedError) -> None:
    log.error("%s", error)
    # The summary is shown in the report, which is given away: no path may get there.
    failed = {"state": "failed", "message": error.shareable()}
    with contextlib.suppress(OSError):  # who supervises this process finds the disk full, too
        store.write_summary(store.summary().model_copy(update=failed))
    with contextlib.suppress(StorageError):
        RunAudit(store).ended("failed")


app = ServerApp()


@app.main()
def _main(grid: Grid, context: Context) -> None:
    store = RunStore(Path(os.environ[RUN_FOLDER]))
    handler = rotating_handler(store.logs / "serverapp.log")
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line each poll
    checkpoints = store.checkpoint(0).parent
    inflate_within(lambda: most_answer_bytes(checkpoints), caller=http_grid)
    if isinstance(grid, HttpGrid):
        share_parts(grid._runtime_client, PartFolder.of_environment())
    errand = {"release": ask_before_release}.get(os.environ.get(RUN_ERRAND, ""), run_study)
    with living(store):
        errand(grid, store, FileRoster(store.roster))
