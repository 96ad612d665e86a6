"""The best round: chosen, told, and held for as long as it is the best."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from feat_fed.atomic import write_bytes_atomically
from feat_fed.errors import StorageError
from feat_fed.evaluator.due import first_score, ranked
from feat_fed.evaluator.holding import HeldRounds
from feat_fed.evaluator.rounds import PresentRounds
from feat_fed.measured import Evaluation
from feat_fed.report.evaluation_folder import Best, EvaluationFolder


class BestRound:
    """Keeps ``best.json`` and the held files in step with what was measured.

    Parameters
    ----------
    metric
        By which; None: the first that knows better from worse.
    tell
        Called with a line when another round is best.
    """

    def __init__(
        self,
        folder: EvaluationFolder,
        held: HeldRounds,
        present: PresentRounds,
        *,
        metric: str | None,
        tell: Callable[[str], None],
    ) -> None:
        self._folder, self._held, self._present = folder, held, present
        self._metric, self._tell = metric, tell

    def choose(self, measured: Sequence[Evaluation], *, keep: int | None) -> None:
        """Hold the best round whose weights can still be had, and let go of the others.

        Parameters
        ----------
        measured
            On equal terms, one at least.
        keep
            Another round to hold on to.

        Raises
        ------
        StorageError
            If that cannot be written.
        """
        metric = self._metric or first_score(measured[-1]) or ""
        best = next(filter(self._present.can_hold, ranked(measured, metric)), None)
        if best != self._folder.read_best():
            self._write(best)
        self._held.keep_only(best.round if best else None, keep)

    def _write(self, best: Best | None) -> None:
        try:
            if best is None:
                self._folder.best.unlink(missing_ok=True)
                return
            write_bytes_atomically(self._folder.best, best.model_dump_json().encode() + b"\n")
        except OSError as error:
            raise StorageError(f"{self._folder.best} cannot be written: {error}") from error
        self._tell(f"best so far: round {best.round}, {best.metric} {best.value:.4g}")
