"""The site's privacy budget where it meets a round: before the first step, and after the last."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from feat_fed.audit import AuditLog
from feat_fed.audit.events import Leaving
from feat_fed.config import ComputeConfig, SiteConfig, SiteDataConfig, StudyConfig
from feat_fed.errors import ConfigError, DeviceError, StorageError, TrainingError
from feat_fed.model import FEAT
from feat_fed.privacy.ledger import LEDGER_FOLDER, Ledger
from feat_fed.protocol import Assignment, LedgerHead
from feat_fed.train import RoundHooks, RoundJob, RoundResult
from feat_fed_client import session as session_module
from feat_fed_client.budget import problems_at_start
from feat_fed_client.limits import DeclinedError
from feat_fed_client.optimiser_store import OptimiserStore
from feat_fed_client.session import SiteClips, SiteSession
from feat_fed_client.spool import Spool

PATIENT = {"noise_multiplier": 1.0, "sample_rate": 0.5}


class NoClips:
    """Clips that nobody looks at."""

    num_clips, num_patients = 3, 2
    digest = "of nothing"


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SiteConfig:
    clips = SiteClips(train=NoClips(), heldout=None)  # type: ignore[arg-type]
    monkeypatch.setattr(SiteSession, "clips", lambda session, assignment: clips)
    monkeypatch.setattr("os.fsync", lambda _: None)
    return SiteConfig(
        name="a",
        data=SiteDataConfig(paths=(tmp_path,)),
        store=tmp_path / "store",
        compute=ComputeConfig(device="cpu"),
    )


def demanding(site: SiteConfig, **privacy: Any) -> SiteConfig:
    return site.model_copy(update={"privacy": site.privacy.model_copy(update=privacy)})


def told(round_number: int = 2, **changes: Any) -> Assignment:
    tree = {
        "name": "tiny",
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 2, "size_px": 32},
        "training": {"engine": "torch", "local_steps": 4, "optimiser_state": "kept"},
        "strategy": {"weigh_by": "equal"},
        "privacy": {"patient": PATIENT},
    }
    study = StudyConfig.model_validate(tree | changes.pop("study", {}))
    fields = {"study_id": "0" * 32, "round": round_number, "task": "train", "first_step": 0}
    return Assignment.model_validate(fields | {"study": study} | changes)


Train = Callable[..., RoundResult]


def result(job: RoundJob, steps: int = 4) -> RoundResult:
    return RoundResult(
        weights={name: each + 1 for name, each in job.weights.items()},
        train_loss=0.5,
        heldout_loss=0.25,
        steps=steps,
        skipped_steps=0,
        ended_by="steps",
        examples=3,
        seconds=1.0,
        optimiser_state={},
    )


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch) -> list[Train]:
    """What the next rounds do in place of training; the last one stays."""
    does: list[Train] = [lambda job, **_: result(job)]

    def train(job: RoundJob, **arguments: Any) -> RoundResult:
        return (does.pop(0) if len(does) > 1 else does[0])(job, **arguments)

    monkeypatch.setattr(session_module, "train_round", train)
    return does


def asked(site: SiteConfig, assignment: Assignment) -> Any:
    torch.manual_seed(0)
    return SiteSession(site).run(assignment, FEAT(assignment.study.model).state_dict())


def entries(site: SiteConfig) -> list[str]:
    path = site.store / LEDGER_FOLDER / "000001.jsonl"
    if not path.exists():
        return []
    events = [json.loads(each)["event"] for each in path.read_bytes().splitlines()]
    return [each["kind"] for each in events if each["kind"] != "ledger-began"]


def steps_of(site: SiteConfig) -> int:
    return sum(each.steps for each in Ledger(site.store, "a").read().history())


def test_steps_are_in_the_ledger_before_the_first_and_settled_before_anything_is_kept(
    site: SiteConfig, trainer: list[Train], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, list[str]]] = []

    def note(what: str, then: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any, **options: Any) -> Any:
            seen.append((what, entries(site)))
            return then(*arguments, **options)

        return noted

    trainer[0] = note("train", trainer[0])
    monkeypatch.setattr(OptimiserStore, "write", note("optimiser", OptimiserStore.write))
    monkeypatch.setattr(Spool, "write", note("spool", Spool.write))
    asked(site, told())
    done = ["reserved", "settled"]
    assert seen == [("train", ["reserved"]), ("optimiser", done), ("spool", done)]
    assert asked(site, told())[0].steps == 4  # from the spool: no new release
    assert entries(site) == done


def test_a_study_does_not_lose_its_dp_sgd_on_the_way(
    site: SiteConfig, trainer: list[Train]
) -> None:
    asked(site, told(1))
    plain = {"study": {"privacy": {}}}
    with pytest.raises(DeclinedError, match="had DP-SGD in earlier rounds") as declined:
        asked(site, told(2, **plain))
    assert declined.value.limit == "protection"
    asked(site, told(2, study_id="1" * 32, **plain))  # a study of its own


def test_without_dp_sgd_there_is_no_ledger(site: SiteConfig, trainer: list[Train]) -> None:
    asked(site, told(study={"privacy": {}}))
    assert not (site.store / "privacy").exists()


def test_a_round_that_died_between_step_and_ledger_is_counted_once_when_it_is_done(
    site: SiteConfig, trainer: list[Train]
) -> None:
    def dies(job: RoundJob, *, hooks: RoundHooks, **_: object) -> RoundResult:
        raise DeviceError("as good as killed")

    trainer[:] = [dies, dies, lambda job, **_: result(job)]
    for _ in range(2):
        with pytest.raises(DeviceError):
            asked(site, told())
        assert steps_of(site) == 4
    asked(site, told())
    assert (steps_of(site), entries(site)) == (4, ["reserved", "settled"])
    with pytest.raises(DeviceError):
        trainer[:] = [dies]
        asked(site, told(3))
    trainer[:] = [lambda job, **_: result(job)]
    asked(site, told(4))  # the third is never asked again: nobody knows, so it counts
    assert steps_of(site) == 12


def test_a_round_whose_update_was_lost_after_it_was_settled_is_counted_twice(
    site: SiteConfig, trainer: list[Train], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(Spool, "write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            asked(site, told())
    assert steps_of(site) == 4
    asked(site, told())
    assert entries(site) == ["reserved", "settled"] * 2
    assert steps_of(site) == 8


def test_nothing_is_kept_of_a_round_that_cannot_be_settled(
    site: SiteConfig, trainer: list[Train], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise StorageError("no space")

    monkeypatch.setattr(Ledger, "settle", full)
    with pytest.raises(StorageError):
        asked(site, told())
    assert entries(site) == ["reserved"]
    assert not (site.store / "spool").exists() and not (site.store / "optimiser").exists()


def test_a_round_that_ended_early_counts_the_steps_that_it_took(
    site: SiteConfig, trainer: list[Train]
) -> None:
    trainer[:] = [lambda job, **_: result(job, steps=3)]
    asked(site, told())
    assert steps_of(site) == 3


def test_steps_that_were_skipped_count(site: SiteConfig, trainer: list[Train]) -> None:
    trainer[:] = [lambda job, **_: replace(result(job, steps=1), skipped_steps=3)]
    asked(site, told())
    assert steps_of(site) == 4


@pytest.mark.parametrize("error", [TrainingError("not finite"), ZeroDivisionError()])
def test_a_round_that_failed_by_what_its_steps_came_to_counts_in_full(
    site: SiteConfig, trainer: list[Train], error: Exception
) -> None:
    def fails(job: RoundJob, **_: object) -> RoundResult:
        raise error

    trainer[:] = [fails]
    for tries in (1, 2):
        with pytest.raises(type(error)):
            asked(site, told())
        assert steps_of(site) == 4 * tries
    assert entries(site) == ["reserved", "settled"] * 2


def declined(site: SiteConfig, assignment: Assignment) -> tuple[str, str]:
    with pytest.raises(DeclinedError) as error:
        asked(site, assignment)
    return error.value.limit, str(error.value)


def test_a_round_beyond_the_budget_is_declined_and_not_trained(
    site: SiteConfig, trainer: list[Train]
) -> None:
    asked(site, told(1))
    spent = Ledger(site.store, "a").read().epsilon(delta=1e-5)
    careful = demanding(site, max_epsilon=spent * 1.01)
    trainer[:] = [lambda *_, **__: pytest.fail("it was trained")]
    assert asked(careful, told(1))[0].steps == 4  # what is paid for may be sent again
    limit, why = declined(careful, told(2))
    assert limit == "privacy" and "round 2 of tiny would bring the epsilon" in why
    # Neither less noise in the study nor another study gets around it.
    less = {"privacy": {"patient": PATIENT | {"noise_multiplier": 0.2}}}
    assert declined(careful, told(3, study=less, study_id="1" * 32))[0] == "privacy"
    assert entries(site) == ["reserved", "settled"]


@pytest.mark.parametrize("task", ["train", "evaluate"])
def test_without_the_protection_that_the_site_demands_nothing_is_answered(
    task: str, site: SiteConfig, trainer: list[Train]
) -> None:
    trainer[:] = [lambda *_, **__: pytest.fail("it was trained")]
    careful = demanding(site, require=("patient", "secure-aggregation"))
    limit, why = declined(careful, told(task=task))
    assert limit == "protection" and "secure-aggregation" in why and "patient" not in why


def test_noise_that_is_none_is_no_protection(site: SiteConfig, trainer: list[Train]) -> None:
    trainer[:] = [lambda *_, **__: pytest.fail("it was trained")]
    silent = {"privacy": {"patient": PATIENT | {"noise_multiplier": 1e-300}}}
    limit, why = declined(demanding(site, require=("patient",)), told(study=silent))
    assert limit == "protection" and "1e-300; less than 0.1 protects nobody" in why


def test_a_study_that_does_not_say_its_noise_is_refused(
    site: SiteConfig, trainer: list[Train]
) -> None:
    unresolved = {"privacy": {"patient": {"epsilon": 8.0}}}
    with pytest.raises(ConfigError, match="noise_multiplier is null"):
        asked(site, told(study=unresolved))
    assert entries(site) == []


def test_a_ledger_that_ends_before_what_the_server_has_seen_declines_with_the_line(
    site: SiteConfig, trainer: list[Train]
) -> None:
    asked(site, told(1))
    head = Ledger(site.store, "a").read().head
    assert head is not None
    seen = LedgerHead(line=head.sequence, hash=head.hash)
    asked(site, told(2, ledger=seen))
    ahead = told(3, ledger=seen.model_copy(update={"line": 9}))
    why = declined(site, ahead)[1]
    assert "ends with line 5, and the study's server has seen line 9" in why
    assert "may find nothing wrong" in why  # for `privacy verify` cannot know what the server saw


def test_a_damaged_audit_log_declines_with_the_line(site: SiteConfig, trainer: list[Train]) -> None:
    AuditLog.of_site(site.store, "a").append(Leaving(message="refusal"))
    asked(site, told(1))
    path = site.store / "audit" / "000001.jsonl"
    path.write_bytes(path.read_bytes().replace(b"refusal", b"report!"))
    limit, why = declined(site, told(2))
    assert limit == "privacy" and "the audit log: 000001.jsonl:2: the line is damaged" in why
    assert problems_at_start(site)[0] == "the audit log: 000001.jsonl:2: the line is damaged"


def test_a_client_that_never_saw_dp_sgd_is_told_nothing_at_its_start(site: SiteConfig) -> None:
    AuditLog.of_site(site.store, "another").append(Leaving(message="refusal"))
    assert problems_at_start(site) == []
