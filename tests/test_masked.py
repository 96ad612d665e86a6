"""An update as masked integers."""

import pytest
import torch

from feat_fed.config import StudyConfig
from feat_fed.errors import ProtocolError, TrainingError
from feat_fed.federate import pack
from feat_fed.masked import COUNTERS, OwnUpdate, counted, largest_move, sum_of, unpack_masked
from feat_fed.secagg import Grid, Masks
from masking_hospitals import secure_study

GRID = Grid(1.0, sites=3)
SEEDS = [bytes([number]) * 32 for number in range(3)]
BEFORE = {
    "a.half": torch.zeros(5, dtype=torch.bfloat16),
    "b.weight": torch.zeros(3, 70_001),
    "c.steps": torch.zeros((), dtype=torch.int64),
}
MASKED = Masks(added=tuple(SEEDS[:2]), subtracted=(SEEDS[2],))
LEFT = Masks(added=MASKED.subtracted, subtracted=MASKED.added)


def update(site: int, within: int) -> OwnUpdate:
    torch.manual_seed(site)
    trained = {
        "a.half": torch.full((5,), 0.25, dtype=torch.bfloat16),
        "b.weight": torch.rand(3, 70_001) - 0.5,
        "c.steps": torch.tensor(7),
    }
    return OwnUpdate(trained, BEFORE, GRID, [within])


def test_the_masks_of_a_sum_are_taken_off_a_tensor_at_a_time() -> None:
    updates = [update(site, within=site % 2) for site in range(3)]
    nothing = Masks(added=(), subtracted=())
    sent = [
        unpack_masked(each.masked(MASKED if site == 0 else nothing), BEFORE, counters=1)
        for site, each in enumerate(updates)
    ]
    assert [each.keys() for each in sent] == 3 * [{"a.half", "b.weight", COUNTERS}]
    assert counted(sent, masks=LEFT, sites=3) == [1]
    for name in ("b.weight", "a.half"):
        found = sum_of(sent, [name], weights=BEFORE, grid=GRID, masks=LEFT, counters=1)[name]
        expected = sum(each.trained[name].double() for each in updates)
        assert (found - expected).abs().max() < 3 * GRID.step


def test_a_masked_update_is_said_to_be_what_it_is() -> None:
    one, other = update(0, within=1), update(1, within=1)
    assert one.digest() == update(0, within=1).digest()
    assert len({one.digest(), other.digest(), update(0, within=0).digest()}) == 3
    nan = {**one.trained, "b.weight": torch.full((3, 70_001), torch.nan)}
    with pytest.raises(TrainingError):
        OwnUpdate(nan, BEFORE, GRID).digest()


def test_an_update_without_masks_is_not_of_the_form() -> None:
    floats = {name: BEFORE[name] for name in ("a.half", "b.weight")}
    with pytest.raises(ProtocolError):
        unpack_masked(pack(floats), BEFORE)
    with pytest.raises(ProtocolError):
        unpack_masked(update(0, within=1).masked(MASKED), BEFORE)


def test_how_far_a_weight_may_move_is_the_studys_word_or_follows_from_it() -> None:
    tree = secure_study().model_dump()
    tree["privacy"]["secure_aggregation"]["largest_value"] = None
    tree["training"] |= {"learning_rate": 0.01, "local_steps": 50}
    study = StudyConfig.model_validate(tree)
    assert largest_move(secure_study()) == 2.0
    assert largest_move(study) == pytest.approx(10 * 0.01 * 50)
    assert largest_move(study, clip_norm=0.5) == 0.5
    tree["screening"]["max_move"] = None
    with pytest.raises(ValueError, match="say how far a weight may move"):
        StudyConfig.model_validate(tree)
