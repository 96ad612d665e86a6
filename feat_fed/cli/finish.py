"""What follows a study's last round: samples, the report, and where to look."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from feat_fed.cli.console import console, say
from feat_fed.errors import FeatFedError
from feat_fed.report import RunStore, write_report, write_samples


def finish(store: RunStore) -> None:
    """Sample the averaged weights, write the report, say where everything is."""
    from feat_fed.generate import DISPLAY_FPS, generate_clips

    with console.status("sampling clips from the averaged weights"):
        clips_NTHWC = generate_clips(store)
        files = write_samples(store.samples, clips_NTHWC, fps=DISPLAY_FPS)
        report = write_report(store)
    summary = store.summary()
    first = store.rounds()[0].heldout_loss
    if first is not None and summary.final_heldout_loss is not None:
        say(f"held-out loss: {first:.4f} untrained, {summary.final_heldout_loss:.4f} at the end")
    say(f"report:      {report}")
    say(f"samples:     {files.mp4}  {files.gif}")
    say(f"checkpoints: {store.checkpoint(0).parent}")


@contextlib.contextmanager
def stopped(store: RunStore) -> Iterator[None]:
    """Hold the run; leave one that ends early in a defined state, with a report."""
    with store.writing():
        try:
            yield
        except FeatFedError as error:
            # The ServerApp, if it was what failed, has told the reason before.
            _leave(store, "failed", store.summary().message or error.shareable())
            raise
        except BaseException:
            _leave(store, "interrupted", "")
            done = store.summary()
            say(
                f"stopped after round {done.rounds_done} of {done.rounds_wanted}; "
                f"the same command with --run {store.root.name} goes on"
            )
            raise


def _leave(store: RunStore, state: str, message: str) -> None:
    store.write_summary(store.summary().model_copy(update={"state": state, "message": message}))
    write_report(store)
