"""The server keeps the furthest line of each site's privacy ledger, and tells it back."""

from pathlib import Path

from flwr.app import RecordDict

from fake_sites import STUDY, Answer, report, run, trained_at
from fake_sites import Weights as FakeWeights
from feat_fed.config import StudyConfig
from feat_fed.federate import pack
from feat_fed.protocol import Assignment, LedgerHead
from feat_fed.report.run_store import RunStore
from feat_fed.wire import to_records
from feat_fed_server.standing import Answer as Answered
from feat_fed_server.standing import SiteStanding


def head(line: int) -> LedgerHead:
    return LedgerHead(line=line, hash=f"{line:064x}")


def with_ledger(site: str, heads: dict[int, LedgerHead | None]) -> Answer:
    """A site that tells its ledger's head of each round."""
    shift = 0.5 + 1e-6 * ord(site)

    def answer(assignment: Assignment, weights: FakeWeights) -> RecordDict:
        moved = {name: each + shift for name, each in weights.items()}
        told = report(assignment, site, ledger=heads.get(assignment.round))
        return to_records(told, pack(moved) if assignment.task == "train" else ())

    return answer


def three_rounds() -> StudyConfig:
    return StudyConfig.model_validate(STUDY.model_dump() | {"rounds": 3})


def test_a_site_is_told_its_own_head_also_by_a_server_that_was_started_again(
    tmp_path: Path,
) -> None:
    sites = {
        "a": with_ledger("a", {1: head(4), 2: head(7), 3: head(10)}),
        "b": with_ledger("b", {}),
    }
    store = RunStore.create(tmp_path / "run", STUDY)
    grid = run(store, sites)
    again = run(RunStore.resume(tmp_path / "run", three_rounds()), sites)
    assert trained_at(again, 3) == ["a", "b"]
    told = [
        (each.round, name, each.ledger)
        for each, name in [
            *zip(grid.asked, grid.asked_of, strict=True),
            *zip(again.asked, again.asked_of, strict=True),
        ]
        if each.task == "train"
    ]
    assert {each for _, name, each in told if name == "b"} == {None}
    assert [each for _, name, each in sorted(told, key=str) if name == "a"] == [
        None,
        head(4),
        head(7),
    ]


def test_an_earlier_head_takes_no_later_ones_place() -> None:
    standing = SiteStanding()
    for told, kept in ((4, 4), (7, 7), (5, 7), (7, 7)):
        answer = Answered(site="a", status="declined", ledger=head(told))
        standing = standing.after(1, answer, quarantine_after=3)
        assert standing.ledger == head(kept)
    none = standing.after(2, Answered(site="a", status="missing"), quarantine_after=3)
    assert none.ledger == head(7)
