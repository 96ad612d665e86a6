import pytest
from pydantic import ValidationError

from feat_fed.config import StrategyConfig, StudyConfig


def test_options_of_a_kind_are_filled_in_and_survive_a_round_trip() -> None:
    adam = StrategyConfig(kind="fedadam", server_learning_rate=0.2)
    assert (adam.option("server_learning_rate"), adam.option("server_beta_2")) == (0.2, 0.99)
    assert StrategyConfig.model_validate(adam.model_dump()) == adam
    assert StrategyConfig().server_learning_rate is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"trim_fraction": 0.1}, "trim_fraction is 0.1, but kind is fedavg, which has none"),
        ({"kind": "fedadagrad", "server_momentum": 0.5}, "choose of: fedavgm, fedadam, fedyogi"),
        ({"kind": "median", "weigh_by": "clips"}, "median knows no weights"),
        ({"kind": "fedavgm", "server_momentum": 1.0}, "less than 1"),
        ({"kind": "bulyan"}, "Input should be"),
    ],
)
def test_an_option_of_another_kind_is_refused(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        StrategyConfig.model_validate(fields)


@pytest.mark.parametrize(
    ("strategy", "minimum", "reason"),
    [
        ({"kind": "krum"}, 4, "krum with strategy.malicious_sites 1 needs 5 sites"),
        ({"kind": "krum", "keep_sites": 5}, 5, "more than the 4"),
        ({"kind": "trimmed-mean"}, 4, "nothing would be trimmed"),
    ],
)
def test_too_few_sites_for_a_robust_strategy_are_refused(
    strategy: dict[str, object], minimum: int, reason: str
) -> None:
    tree = {
        "name": "s",
        "model": {"in_channels": 6},
        "strategy": strategy,
        "sites": {"minimum": minimum},
    }
    with pytest.raises(ValidationError, match=reason):
        StudyConfig.model_validate(tree)
    StudyConfig.model_validate({**tree, "sites": {"minimum": 10}})
