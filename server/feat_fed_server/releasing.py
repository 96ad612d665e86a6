"""Asking the sites, before a release, which generated clips are copies of theirs."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from typing import cast

from flwr.serverapp import Grid

from feat_fed.errors import FeatFedError, ProtocolError, RunError
from feat_fed.federate import pack
from feat_fed.memorisation import GeneratedClips, NearestClips, SiteAnswer
from feat_fed.protocol import Assignment, Report, Versions, enclose, opened
from feat_fed.report.run_store import RunStore
from feat_fed_server.asking import POLL_SEC, Asking
from feat_fed_server.audited_grid import AuditedGrid
from feat_fed_server.errand import ErrandName
from feat_fed_server.question import Question
from feat_fed_server.release_folder import AskingState, ReleaseFolder
from feat_fed_server.replies import Reply, missing
from feat_fed_server.roster import Roster
from feat_fed_server.run_audit import RunAudit
from feat_fed_server.site_desk import SiteDesk
from feat_fed_server.standing import Standing

log = logging.getLogger(__name__)

NOT_REGISTERED = "its key is not registered any more"

_LISTEN_SEC = 15.0
_AGAIN_SEC = 20.0
"""Between two questions to a site that declined for the time being."""


class ReleaseAsking:
    """Ask the sites that took part, until each has answered or the time is up.

    Parameters
    ----------
    grid
        Flower's connection to the sites.
    roster
        Tells which node is which site.
    store
        The run's folder; its ``release/`` holds what is asked, and gets each answer as it comes.
    """

    def __init__(self, grid: Grid, roster: Roster, store: RunStore) -> None:
        self._roster = roster
        self._store = store
        self._folder = ReleaseFolder(store.root)
        audited = cast(Grid, AuditedGrid(grid, roster, RunAudit(store)))
        self._asking = Asking(audited, roster, store)
        self._closed: set[str] = set()
        self._not_before: dict[str, float] = {}

    def run(self) -> None:
        """Ask.

        Raises
        ------
        RunError
            If there is no question in the run's folder, or what came cannot be written.
        CheckpointError
            If the clips' latents are damaged.
        """
        state = asked_in(self._folder)
        question = self._question(state)
        while (left_sec := state.until - time.time()) > 0:
            unreachable = self._unreachable(question.desk)
            open_ = {*state.sites} - state.settled() - self._closed - unreachable.keys()
            if not open_:
                break
            due = {each for each in open_ if self._not_before.get(each, 0.0) <= time.time()}
            if due:
                replies = self._ask(question, due, state, left_sec)
                state = self._noted(state, replies)
            time.sleep(POLL_SEC)
        state = state.model_copy(update={"answers": self._final(state, question.desk)})
        self._folder.write_asking(state.model_copy(update={"state": "complete"}))
        self._asking.tell("done", state.round, state.settled())

    def _ask(
        self, question: Question, due: Set[str], state: AskingState, left_sec: float
    ) -> list[Reply]:
        """Ask, and wait a little: who connects meanwhile is asked while others are at it."""
        return self._asking.ask(
            replace(question, within_sec=min(left_sec, _LISTEN_SEC)),
            needed=0,
            but=frozenset({*self._roster.expected} - due),
            replied=state.settled(),
            draw=lambda there: [each for each in there if each in due],
            accept=lambda reply: accepted(reply, clips=state.clips),
            free_only=False,
        )

    def _noted(self, state: AskingState, replies: Sequence[Reply]) -> AskingState:
        """Keep what came on the disk; who is silent is listened to further."""
        came = [each for each in replies if each.status not in ("missing", "late")]
        for each in came:
            if each.may_change_soon:
                self._not_before[each.site] = time.time() + _AGAIN_SEC
            else:
                self._closed.add(each.site)
        new = {each.site: answer_of(each) for each in came if each.site in state.sites}
        if new:
            state = state.model_copy(update={"answers": {**state.answers, **new}})
            self._folder.write_asking(state)
        return state

    def _final(self, state: AskingState, desk: SiteDesk) -> dict[str, SiteAnswer]:
        """Return an answer of every site."""
        unreachable = self._unreachable(desk)
        silent = [each for each in state.sites if each not in state.answers]
        return {**state.answers} | {
            site: SiteAnswer(
                site=site, status="missing", reason=unreachable.get(site, missing(site).reason)
            )
            for site in silent
        }

    def _unreachable(self, desk: SiteDesk) -> dict[str, str]:
        """Return who will not be asked, and why."""
        gone = dict.fromkeys(
            {each.site for part in self._store.rounds() for each in part.sites}
            - {*self._roster.expected},
            NOT_REGISTERED,
        )
        return gone | desk.kept_out()

    def _question(self, state: AskingState) -> Question:
        z_NFChw, digest = self._folder.read_latents()
        if digest != state.clips_sha256 or len(z_NFChw) != state.clips:
            raise RunError(f"{self._folder.latents} are other clips than those asked about")
        study = self._store.study
        assignment = Assignment(
            study_id=self._store.summary().study_id,
            round=state.round,
            task="memorisation",
            first_step=state.round * study.training.local_steps,
            study=study,
            versions=Versions.installed(),
            enclosed=enclose(GeneratedClips(clips=state.clips)),
        )
        # A message lives as long as anybody may still answer it, and not for a turn of listening.
        lives = {"late_replies": "next-round", "round_sec": max(1.0, state.until - time.time())}
        desk = SiteDesk(self._store.root, study.sites.model_copy(update=lives), Standing())
        return Question(assignment, None, desk, {}, beside=tuple(pack({"z": z_NFChw})))


def accepted(reply: Reply, *, clips: int) -> Reply:
    """Return a reply as it came, or refused where it tells nothing of so many clips."""
    if reply.status != "ok":
        return reply
    try:
        told = nearest_of(reply.report)
        if len(told.near) != clips:
            raise ProtocolError(f"an answer about another number of clips than {clips}")
    except ProtocolError as error:
        log.warning("%s: refused: %s", reply.site, error)
        return reply.refused(error)
    return reply


def nearest_of(report: Report | None) -> NearestClips:
    """Return what a report encloses.

    Raises
    ------
    ProtocolError
        If it encloses nothing of that kind.
    """
    try:
        return opened(report.enclosed if report else None, NearestClips)
    except ProtocolError:
        raise ProtocolError("an answer that tells nothing of the generated clips") from None


def answer_of(reply: Reply) -> SiteAnswer:
    """Return what the decision needs of a reply."""
    if reply.status == "ok":
        return SiteAnswer(site=reply.site, status="answered", nearest=nearest_of(reply.report))
    told = {"site": reply.site, "status": reply.status, "reason": reply.reason}
    return SiteAnswer.model_validate(told)


def asked_in(folder: ReleaseFolder) -> AskingState:
    """Return what is asked.

    Raises
    ------
    RunError
        If nothing is, or it cannot be read.
    """
    state = folder.asking()
    if state is None:
        raise RunError(f"nothing is asked in {folder.root}: `feat-fed release` does that")
    return state


@dataclass(frozen=True)
class ReleaseErrand:
    """Ask the sites about clips, and train nothing (:class:`.errand.Errand`)."""

    store: RunStore
    name: ErrandName = "release"

    def begin(self) -> None:
        """Say that the sites are asked."""
        self._folder.write_asking(
            self._state().model_copy(update={"state": "asking", "message": ""})
        )

    def outcome(self) -> bool | None:
        """Return what the folder says."""
        said = self._state().state
        return None if said == "asking" else said == "complete"

    def message(self) -> str:
        """Return the folder's."""
        return self._state().message

    def progress(self) -> int:
        """Return how many sites have answered."""
        return len(self._state().settled())

    def next_step(self) -> str:
        """Return whom it is about."""
        return "the sites that have not answered"

    def kept(self) -> str:
        """Return how many answers there are."""
        return f"without another answer; {self.progress()} answers are kept"

    @property
    def _folder(self) -> ReleaseFolder:
        return ReleaseFolder(self.store.root)

    def _state(self) -> AskingState:
        return asked_in(self._folder)


def note_failure(store: RunStore, error: FeatFedError) -> None:
    """Leave the reason why the sites could not be asked."""
    folder = ReleaseFolder(store.root)
    state = folder.asking()
    if state is not None:
        failed = {"state": "failed", "message": error.shareable()}
        folder.write_asking(state.model_copy(update=failed))
