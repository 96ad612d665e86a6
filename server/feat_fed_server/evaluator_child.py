"""The evaluator beside a study: started, started again, given up; the study never feels it."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from feat_fed.evaluator import HOPELESS
from feat_fed.processes import Child, ChildGroup, describe_exit
from feat_fed.report.evaluation_folder import EvaluationFolder
from feat_fed.report.run_store import RunStore

log = logging.getLogger(__name__)

_LOOK_SEC = 0.5
_MAX_FAULTS = 5
"""In a row, without a round that was measured in between."""
_PAUSES_SEC = (1.0, 10.0, 30.0, 60.0, 60.0)
"""After the first fault, the second ..."""
_END_SEC = 20.0

_SAYS = " feat_fed.evaluator: "
_LATER = "`feat-fed evaluate --watch --run {}` measures what is left"


class EvaluatorChild:
    """A study's evaluator for the ``with`` block, where the study has one that the server starts.

    A thread looks after the process, for the block's whole length: the kernel ends a child with
    the very thread that started it. Nothing that happens to it raises anything here.

    Parameters
    ----------
    store
        The run's folder.
    tell
        Called, on that thread, with a line for the screen.
    """

    def __init__(self, store: RunStore, tell: Callable[[str], None]) -> None:
        self._store, self._tell = store, tell
        config = store.study.evaluation
        self._config = config if config is not None and config.with_server else None
        self._over, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._look_after, daemon=True)

    def __enter__(self) -> Self:
        if self._config is not None:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        if self._config is not None:
            self._thread.join(_END_SEC)

    def finish(self) -> None:
        """Wait, once the study is complete, until all is measured, or for as long as it says."""
        if self._config is None or self._over.wait(1.0):
            return
        minutes = self._config.finish_minutes
        self._tell(f"rounds are still being measured; waiting {minutes:g} minutes at most")
        if not self._over.wait(minutes * 60):
            self._tell(f"not all rounds are measured yet: {_LATER.format(self._store.root)}")

    def _look_after(self) -> None:
        try:
            with ChildGroup() as group:
                self._survive(group)
        except Exception:
            log.exception("the evaluator is given up")
            self._tell(f"the evaluator is given up: {_LATER.format(self._store.root)}")
        finally:
            self._over.set()

    def _survive(self, group: ChildGroup) -> None:
        """Start it, and again after faults, until it has nothing left to do."""
        faults, measured = 0, -1
        while not self._stop.is_set():
            child = self._started(group)
            code = self._ended(group, child)
            if code is None or code == 0:
                return
            before, measured = measured, self._num_measured()
            faults = faults + 1 if measured == before else 1
            said = child.tail(1).rpartition(_SAYS)[2] or describe_exit(code)
            if code == HOPELESS or faults > _MAX_FAULTS:
                self._tell(
                    f"the study goes on without its evaluator: {said} (log: {child.log_file}); "
                    f"once that is mended, {_LATER.format(self._store.root)}"
                )
                return
            pause_sec = _PAUSES_SEC[faults - 1]
            self._tell(
                f"the evaluator has ended ({describe_exit(code)}); its log is {child.log_file}; "
                f"starting it again in {pause_sec:.0f} s"
            )
            group.remove(child)
            self._stop.wait(pause_sec)

    def _started(self, group: ChildGroup) -> Child:
        threads = str(self._config.threads if self._config else 1)
        return group.start(
            "the evaluator",
            [sys.executable, "-m", "feat_fed.evaluator", str(self._store.root.resolve())],
            log_file=self._store.logs / "evaluator.log",
            env={"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )

    def _ended(self, group: ChildGroup, child: Child) -> int | None:
        """Return its exit status once it has ended, or None when it is not wanted any more."""
        while (code := child.process.poll()) is None:
            if self._stop.wait(_LOOK_SEC):
                return None
            group.rotate_logs()
        return code

    def _num_measured(self) -> int:
        return len(EvaluationFolder.of_run(self._store.root).evaluations())
