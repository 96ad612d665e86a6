"""``python -m feat_fed.evaluator RUN``: the evaluator as a child of the server."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

from feat_fed.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    FeatFedError,
    StorageError,
)
from feat_fed.evaluator import HOPELESS
from feat_fed.evaluator.priority import step_back
from feat_fed.report.run_store import RunStore


def main(run: Path) -> int:
    """Measure a run as its study says; return the exit status."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", stream=sys.stdout
    )
    try:
        config = RunStore(run).study.evaluation
        step_back(config.niceness if config else 0)
        from feat_fed.evaluator.watch import watch  # torch: at that priority

        watch(run)
    except FeatFedError as error:
        logging.getLogger("feat_fed.evaluator").error("%s", error)
        hopeless = isinstance(error, ConfigError | DataError | CheckpointError)
        return HOPELESS if hopeless and not isinstance(error, StorageError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
