"""A kept optimiser state: whole, of the right model, and of the round before."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from feat_fed.config import FEATConfig
from feat_fed.model.state import state_schema
from feat_fed_client.optimiser_store import OptimiserStore

MODEL = FEATConfig(in_channels=2, hidden_size=8, num_trios=1, num_heads=1, mlp_ratio=1)
STUDY = "a" * 32


def state(value: float) -> dict[str, Tensor]:
    made = {}
    for name, spec in state_schema(MODEL).items():
        made[f"step/{name}"] = torch.tensor(value)
        made[f"exp_avg/{name}"] = torch.full(spec.shape, value)
        made[f"exp_avg_sq/{name}"] = torch.full(spec.shape, value)
    return made


def value_of(found: dict[str, Tensor] | None) -> float | None:
    return None if found is None else float(found["exp_avg/skip.weight"][0, 0])


@pytest.fixture
def store(tmp_path: Path) -> OptimiserStore:
    return OptimiserStore.of(tmp_path, study_id=STUDY, model=MODEL)


def files(store: OptimiserStore) -> list[str]:
    return sorted(each.name for each in store.folder.iterdir())


def test_what_is_written_comes_back(store: OptimiserStore) -> None:
    assert store.read(before=1) is None
    store.write(state(0.5), after=1)
    found = store.read(before=2)
    assert found is not None
    assert found.keys() == state(0.5).keys()
    assert all(torch.equal(found[name], each) for name, each in state(0.5).items())


def test_a_round_that_is_asked_for_again_starts_where_it_started(store: OptimiserStore) -> None:
    for number in (1, 2, 3):
        store.write(state(number), after=number)
    assert files(store) == ["after-0002.safetensors", "after-0003.safetensors"]
    assert value_of(store.read(before=3)) == 2.0
    assert value_of(store.read(before=4)) == 3.0
    store.write(state(9.0), after=3)
    assert value_of(store.read(before=3)) == 2.0
    assert value_of(store.read(before=4)) == 9.0


def test_rounds_that_this_site_missed_do_not_matter(store: OptimiserStore) -> None:
    store.write(state(2.0), after=2)
    assert value_of(store.read(before=7)) == 2.0
    assert store.read(before=2) is None


def test_a_server_that_went_back_leaves_no_state_of_a_future(store: OptimiserStore) -> None:
    for number in (4, 5):
        store.write(state(number), after=number)
    store.write(state(0.0), after=2)
    assert files(store) == ["after-0002.safetensors"]


@pytest.mark.parametrize("damage", ["bit", "cut", "empty", "text", "moved"])
def test_a_damaged_file_starts_afresh_and_says_so(
    damage: str, store: OptimiserStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(state(1.0), after=1)
    path = store.folder / "after-0001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    spoilt = {"bit": bytes(content), "cut": bytes(content[:-9]), "empty": b"", "text": b"x" * 99}
    if damage == "moved":
        path.rename(store.folder / "after-0002.safetensors")
    else:
        path.write_bytes(spoilt[damage])
    assert store.read(before=3) is None
    assert "starts afresh" in caplog.text


def test_a_state_of_another_model_starts_afresh(
    store: OptimiserStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(state(1.0), after=1)
    wider = MODEL.model_copy(update={"hidden_size": 16})
    assert OptimiserStore.of(tmp_path, study_id=STUDY, model=wider).read(before=2) is None
    assert "another model" in caplog.text
