"""What a ServerApp is started for, as whoever supervises it can tell from the run's folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from feat_fed.report.run_store import RunStore

ErrandName = Literal["study", "release"]


class Errand(Protocol):
    """The rounds of a study, or a question before a release."""

    @property
    def name(self) -> ErrandName:
        """Which of them, for the ServerApp's environment."""
        ...

    def begin(self) -> None:
        """Remove an earlier ServerApp's words: they must not be taken for the next one's."""
        ...

    def outcome(self) -> bool | None:
        """Return whether it is complete or has failed; None where neither is said."""
        ...

    def message(self) -> str:
        """Return why it failed, in a phrase of ours."""
        ...

    def progress(self) -> int:
        """Return a number that grows with what is done and kept."""
        ...

    def next_step(self) -> str:
        """Return what is done next, for a person."""
        ...

    def kept(self) -> str:
        """Return what is kept, for a person."""
        ...


@dataclass(frozen=True)
class StudyErrand:
    """Train until the study's last round."""

    store: RunStore
    name: ErrandName = "study"

    def begin(self) -> None:
        """Say that the run goes on."""
        running = self.store.summary().model_copy(update={"state": "running", "message": ""})
        self.store.write_summary(running)

    def outcome(self) -> bool | None:
        """Return what the run's summary says."""
        said = self.store.summary().state
        return said == "complete" if said in ("complete", "failed") else None

    def message(self) -> str:
        """Return the summary's."""
        return self.store.summary().message

    def progress(self) -> int:
        """Return the number of rounds."""
        return self.store.summary().rounds_done

    def next_step(self) -> str:
        """Return the next round."""
        return f"round {self.progress() + 1}"

    def kept(self) -> str:
        """Return the number of rounds."""
        return f"without a completed round; {self.progress()} rounds are kept"
