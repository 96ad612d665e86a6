"""Which rounds' files a run keeps."""

from __future__ import annotations

from collections.abc import Mapping

from feat_fed.config import CheckpointsConfig
from feat_fed.report.run_store import RunStore


def rotate(store: RunStore) -> None:
    """Remove the files of the rounds that the study does not keep.

    A manifest goes before what it names, so that a kill in between leaves no round that seems
    whole; what it leaves is removed the next time.
    """
    newest = store.latest_round()
    if newest is None:
        return
    there = [each for each in store.rounds_with_files() if each <= newest]
    scores = {
        record.round - 1: record.heldout_loss
        for record in store.rounds()
        if record.heldout_loss is not None
    }
    kept = rounds_to_keep(store.study.checkpoints, done=there, scores=scores)
    for number in set(there) - kept:
        for path in store.files_of(number):
            path.unlink(missing_ok=True)


def rounds_to_keep(
    config: CheckpointsConfig, *, done: list[int], scores: Mapping[int, float]
) -> set[int]:
    """Return which of the rounds (in order) to keep.

    Parameters
    ----------
    scores
        Held-out losses by round; of equal ones the earlier round is better. A round is scored
        by the sites in the round after it, so the newest has none yet.
    """
    best = sorted((each for each in done if each in scores), key=lambda each: (scores[each], each))
    every = [each for each in done if config.keep_every and each % config.keep_every == 0]
    return {0, *done[-config.keep_last :], *best[: config.keep_best], *every}
