"""Which rounds' weights are there, by what they hold."""

from __future__ import annotations

from feat_fed.errors import CheckpointError
from feat_fed.evaluator.holding import GoneError, HeldRounds
from feat_fed.report.evaluation_folder import Best
from feat_fed.report.round_manifest import read_manifest
from feat_fed.report.run_store import RunStore


class PresentRounds:
    """The rounds in a run's folder, its own and those that the evaluator holds.

    A round is known by the SHA-256 of its averaged weights: one that was done again after a damage
    is another.
    """

    def __init__(self, store: RunStore, held: HeldRounds) -> None:
        self._store, self._held = store, held
        self._known: dict[int, tuple[int, str]] = {}

    def all(self) -> dict[int, str]:
        """Return the SHA-256 of every round that is there."""
        numbers = {*self._store.done_rounds(), *self._held.rounds()}
        return {each: digest for each in sorted(numbers) if (digest := self.digest(each))}

    def digest(self, number: int) -> str | None:
        """Return that of one, by its manifest."""
        path = self._store.manifest(number)
        path = path if path.exists() else self._held.run.manifest(number)
        try:
            written_at = path.stat().st_mtime_ns
            if self._known.get(number, (0, ""))[0] != written_at:
                files = read_manifest(path).files
                self._known[number] = written_at, files[self._store.ema(number).name]
        except (OSError, CheckpointError, KeyError):  # rotated away meanwhile, or damaged
            return None
        return self._known[number][1]

    def can_hold(self, best: Best) -> bool:
        """Whether the best round's very weights are held, or could be taken hold of just now."""
        if self._held.digest(best.round) == best.weights_sha256:
            return True
        if self.digest(best.round) != best.weights_sha256:
            return False
        try:
            return self._held.hold(best.round) == best.weights_sha256
        except GoneError:
            return False
