"""Weights on their way in and out of a site's store."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from feat_fed.config import StudyConfig, TransferConfig
from feat_fed.errors import MissingBaseError, ProtocolError
from feat_fed.federate import decode, digest_of, encode, form_of, pack
from feat_fed.model.state import state_schema
from feat_fed.protocol import Assignment
from feat_fed.tensor_file import read_digest
from feat_fed_client.exchanged import ExchangedWeights
from feat_fed_client.residual_store import ResidualStore
from feat_fed_client.round_files import forget_rounds, tidy

Weights = dict[str, Tensor]

STUDY = StudyConfig.model_validate(
    {
        "name": "tiny",
        "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
        "clips": {"frames": 2, "size_px": 16},
        "transfer": {"up": "int8", "down": "int8"},
    }
)
SCHEMA = state_schema(STUDY.model)
ID = "a" * 32


def weights(seed: int, scale: float = 1.0) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(s.shape, generator=generator) * scale for name, s in SCHEMA.items()}


def moved(start: Weights, seed: int) -> Weights:
    return {name: start[name] + each for name, each in weights(seed, 1e-3).items()}


def told(
    number: int = 1,
    *,
    after: Weights | None = None,
    base: Weights | None = None,
    taken: int | None = None,
    study: StudyConfig = STUDY,
) -> Assignment:
    return Assignment(
        study_id=ID,
        round=number,
        task="train",
        first_step=0,
        study=study,
        weights=None if after is None else digest_of(after),
        base=None if base is None else digest_of(base),
        taken=taken,
    )


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def difference(start: Weights, goal: Weights) -> tuple[list[bytes], Weights]:
    """Return a difference in int8, and where it leads."""
    form = form_of(STUDY.transfer, "down")
    buckets = encode(goal, form, base=start).buckets
    return buckets, decode(buckets, form, SCHEMA, base=start)


def holding(store: Path, kept: Weights) -> None:
    ExchangedWeights(store, told(after=kept)).receive(pack(kept))


def test_whole_weights_are_kept_by_their_digest(tmp_path: Path) -> None:
    first = weights(1)
    exchanged = ExchangedWeights(tmp_path, told(after=first))
    assert exchanged.held is None
    assert same(exchanged.receive(pack(first)), first)
    assert exchanged.held == digest_of(first)


def test_a_difference_leads_to_the_same_bits_as_at_the_server(tmp_path: Path) -> None:
    first = weights(1)
    holding(tmp_path, first)
    buckets, second = difference(first, moved(first, 2))
    exchanged = ExchangedWeights(tmp_path, told(2, after=second, base=first))
    assert same(exchanged.receive(buckets), second)
    assert exchanged.held == digest_of(second)


def test_what_is_here_already_comes_without_weights(tmp_path: Path) -> None:
    first = weights(1)
    holding(tmp_path, first)
    again = ExchangedWeights(tmp_path, told(after=first, base=first))
    assert same(again.receive([]), first)
    with pytest.raises(ProtocolError, match="needs none"):
        again.receive(pack(first))


def test_weights_of_another_model_under_the_same_name_are_no_base(tmp_path: Path) -> None:
    first = weights(1)
    holding(tmp_path, first)
    model = STUDY.model.model_copy(update={"hidden_size": 32})
    wider = STUDY.model_copy(update={"model": model})
    exchanged = ExchangedWeights(tmp_path, told(after=first, base=first, study=wider))
    with pytest.raises(MissingBaseError, match="another model"):
        exchanged.receive([])


@pytest.mark.parametrize("kept", ["nothing", "others", "damaged", "another study's"])
def test_a_difference_from_what_is_not_here_is_asked_for_whole(kept: str, tmp_path: Path) -> None:
    first, second = weights(1), weights(2)
    if kept != "nothing":
        holding(tmp_path, second if kept == "others" else first)
    [path] = list(tmp_path.rglob("*.safetensors")) or [None]
    if kept == "damaged":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    if kept == "another study's":
        path.parent.rename(path.parent.with_name("b" * 32))
    exchanged = ExchangedWeights(tmp_path, told(2, after=second, base=first))
    with pytest.raises(MissingBaseError):
        exchanged.receive(difference(first, second)[0])
    # What it says that it has is what it has: the server believes it.
    assert exchanged.held == (digest_of(second) if kept == "others" else None)


def test_a_difference_that_leads_elsewhere_is_asked_for_whole(tmp_path: Path) -> None:
    first = weights(1)
    holding(tmp_path, first)
    buckets, _ = difference(first, moved(first, 2))
    exchanged = ExchangedWeights(tmp_path, told(2, after=weights(3), base=first))
    with pytest.raises(MissingBaseError):
        exchanged.receive(buckets)
    assert exchanged.held is None


def test_whole_weights_of_another_digest_are_refused_and_not_kept(tmp_path: Path) -> None:
    exchanged = ExchangedWeights(tmp_path, told(after=weights(3)))
    with pytest.raises(ProtocolError, match="other weights"):
        exchanged.receive(pack(weights(1)))
    assert exchanged.held is None


def test_a_full_disk_costs_the_next_difference_and_no_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("feat_fed.tensor_file.save_file", full)
    first = weights(1)
    exchanged = ExchangedWeights(tmp_path, told(after=first))
    assert same(exchanged.receive(pack(first)), first)
    assert exchanged.held is None
    assert "No space left on device" in caplog.text
    assert exchanged.encode(moved(first, 2), first)
    assert not list(tmp_path.rglob("*.safetensors"))


def sent(store: Path, number: int, start: Weights, goal: Weights, taken: int | None) -> list[bytes]:
    return ExchangedWeights(store, told(number, taken=taken)).encode(goal, start)


def update(buckets: list[bytes]) -> Weights:
    zeros = {name: torch.zeros(each.shape) for name, each in SCHEMA.items()}
    return decode(buckets, form_of(STUDY.transfer, "up"), SCHEMA, base=zeros)


def kept(store: Path) -> list[str]:
    return sorted(each.name for each in (store / "residual" / ID).iterdir())


def test_what_an_update_left_out_comes_with_the_next(tmp_path: Path) -> None:
    start = weights(1)
    goals = [moved(start, seed) for seed in (2, 3, 4)]
    updates = [
        update(sent(tmp_path, number, start, goal, number - 1))
        for number, goal in enumerate(goals, start=1)
    ]
    residual = ResidualStore.of(tmp_path, study_id=ID, model=STUDY.model).read(3)
    assert residual is not None
    for name in SCHEMA:
        told_in_all = sum(each[name] for each in updates) + residual[name]
        wanted = sum(goal[name] - start[name] for goal in goals)
        torch.testing.assert_close(told_in_all, wanted, rtol=1e-5, atol=1e-7)


def test_a_round_that_is_asked_for_again_is_answered_with_the_same_bytes(tmp_path: Path) -> None:
    start = weights(1)
    sent(tmp_path, 1, start, moved(start, 2), 0)
    first = sent(tmp_path, 2, start, moved(start, 3), 1)
    left = read_digest(tmp_path / "residual" / ID / "after-0002.safetensors")
    for _ in range(2):
        assert sent(tmp_path, 2, start, moved(start, 3), 1) == first
    assert read_digest(tmp_path / "residual" / ID / "after-0002.safetensors") == left
    assert kept(tmp_path) == ["after-0001.safetensors", "after-0002.safetensors"]


def test_what_an_update_left_out_that_was_not_used_goes_with_it(tmp_path: Path) -> None:
    """The next is encoded as if the site had sat the round out; older rounds' rests stay owed."""
    start = weights(1)
    for store, rounds in ((tmp_path / "a", (1, 2, 3)), (tmp_path / "b", (1, 3))):
        for number in rounds:
            taken = min(number - 1, 1)  # round 2, where there was one, was refused
            last = sent(store, number, start, moved(start, 10 + number), taken)
        (store / "last").write_bytes(b"".join(last))
        assert kept(store) == ["after-0001.safetensors", "after-0003.safetensors"]
    assert (tmp_path / "a" / "last").read_bytes() == (tmp_path / "b" / "last").read_bytes()


@pytest.mark.parametrize(
    ("taken", "current"), [(None, 4), (4, 4), (3, 3), (2, None), (0, None), (5, None)]
)
def test_the_residual_that_counts(taken: int | None, current: int | None, tmp_path: Path) -> None:
    store = ResidualStore.of(tmp_path, study_id=ID, model=STUDY.model)
    for number in (3, 4, 5):
        path = tmp_path / "residual" / ID / f"after-{number:04d}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert store.current(before=5, taken=taken) == current


@pytest.mark.parametrize("damage", ["bit", "another model's", "another study's", "renamed"])
def test_a_damaged_residual_is_passed_over(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = weights(1)
    fresh = sent(tmp_path / "fresh", 2, start, moved(start, 3), 0)
    sent(tmp_path, 1, start, moved(start, 2), 0)
    path = tmp_path / "residual" / ID / "after-0001.safetensors"
    store = ResidualStore.of(tmp_path, study_id=ID, model=STUDY.model)
    if damage == "bit":
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    elif damage == "another model's":
        ResidualStore(store.folder, ID, STUDY.model.model_copy(update={"mlp_ratio": 2.0})).write(
            weights(1), after=1, current=None
        )
    elif damage == "another study's":
        ResidualStore(store.folder, "b" * 32, STUDY.model).write(weights(1), after=1, current=None)
    else:
        path.rename(path.with_name("after-0002.safetensors"))
        assert store.read(2) is None
        assert "another study or round" in caplog.text
        return
    assert sent(tmp_path, 2, start, moved(start, 3), 1) == fresh
    assert "is lost" in caplog.text


def test_exact_weights_leave_nothing_out(tmp_path: Path) -> None:
    study = STUDY.model_copy(update={"transfer": TransferConfig()})
    exchanged = ExchangedWeights(tmp_path, told(study=study))
    assert exchanged.encode(weights(2), weights(1)) == pack(weights(2))
    assert not (tmp_path / "residual").exists()


def test_they_go_with_the_rest(tmp_path: Path) -> None:
    start = weights(1)
    for study in ("a", "b", "c", "d"):
        assignment = told(after=start).model_copy(update={"study_id": study * 32})
        exchanged = ExchangedWeights(tmp_path, assignment)
        exchanged.encode(moved(start, 2), exchanged.receive(pack(start)))
    tidy(tmp_path, study_id="d" * 32)
    assert len(list((tmp_path / "received").iterdir())) == 3
    assert len(list((tmp_path / "residual").iterdir())) == 3
    assert forget_rounds(tmp_path) == 6
    assert not list(tmp_path.iterdir())
