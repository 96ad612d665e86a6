"""What all sites are asked in a round, and how each of them is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from flwr.app import RecordDict

from feat_fed.protocol import Assignment
from feat_fed.wire import to_records
from feat_fed_server.outgoing import Outgoing, Parcel
from feat_fed_server.replies import Reply
from feat_fed_server.site_desk import SiteDesk


@dataclass(frozen=True)
class Question:
    """A task, with the weights that it starts from, if any.

    Parameters
    ----------
    outgoing
        None: the task needs no weights, or no update that answers it is of use any more.
    desk
        Says who may be asked, how long each has, and what it is told.
    taken
        The last round whose update was used, of each site that is known.
    enclosed
        What each site is told of the secure aggregation.
    within_sec
        How long each site has; None: as long as the desk says.
    beside
        Buckets that go with a task without weights.
    """

    assignment: Assignment
    outgoing: Outgoing | None
    desk: SiteDesk
    taken: Mapping[str, int]
    enclosed: Mapping[str, str] = field(default_factory=dict)
    within_sec: float | None = None
    beside: Sequence[bytes] = ()

    def wait_sec(self, site: str) -> float:
        """Return how long a site is waited for."""
        return self.desk.wait_sec(site) if self.within_sec is None else self.within_sec

    def content(self, site: str, *, within_sec: float, lacks: int = 0) -> tuple[RecordDict, Parcel]:
        """Return a message's content for a site that has so much time, and the weights in it."""
        personal = self.desk.personal(self.assignment, site, within_sec=within_sec)
        if site in self.enclosed:
            personal = personal.model_copy(update={"enclosed": self.enclosed[site]})
        if self.outgoing is None:
            return to_records(personal, self.beside), Parcel(None, None, sum(map(len, self.beside)))
        parcel = self.outgoing.parcel(site, lacks=lacks)
        return self.outgoing.content(personal, parcel, taken=self.taken.get(site)), parcel

    def is_that_of(self, other: Question) -> bool:
        """Whether both ask for the same task of the same round, under the same masks."""
        one, two = self.assignment, other.assignment
        return (one.round, one.task, one.attempt) == (two.round, two.task, two.attempt)

    def note_sent(self, sites: Iterable[str]) -> None:
        """Take it that these sites have the weights from now on."""
        if self.outgoing is not None:
            self.outgoing.outbox.note(dict.fromkeys(sites, self.outgoing.digest))

    def note_reply(self, reply: Reply) -> None:
        """Believe a site that says which weights it has."""
        if reply.report is not None and self.outgoing is not None:
            self.outgoing.outbox.note({reply.site: reply.report.holds})
