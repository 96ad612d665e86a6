from pathlib import Path

import pytest

from feat_fed.config.sweep import load_sweep
from feat_fed.errors import ConfigError

HEAD = "name: trial\nstudy: base.yaml\nsimulation: {hospitals: 3, data: clips}\nvariations:\n"
"""Four lines."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "base.yaml").write_text(
        "name: base\nmodel: {in_channels: 6}\n"
        "strategy: {kind: fedavgm}\ntraining: {local_steps: 7}\n"
    )
    return tmp_path


def swept(folder: Path, variations: str) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(HEAD + variations)
    return path


def test_each_variation_is_the_study_with_its_changes(folder: Path) -> None:
    variations = (
        "  plain:\n"
        "  prox: {training.proximal_mu: 0.01, rounds: 9}\n"
        "  adam: {strategy.kind: fedadam}\n"  # not at odds with what fedavgm alone has
        "  eps-8: {privacy.patient: {epsilon: 8}, strategy.weigh_by: equal}\n"
        "  mixed: {simulation.partition.kind: dirichlet, simulation.partition.alpha: 0.1}\n"
    )
    config, found = load_sweep(swept(folder, variations))
    plain, prox, adam, private, mixed = found
    assert config.name == "trial" and plain.name == "plain"
    assert plain.study.strategy.kind == "fedavgm" and plain.study.training.local_steps == 7
    assert (prox.study.training.proximal_mu, prox.study.rounds) == (0.01, 9)
    assert adam.study.strategy.server_learning_rate == 0.01
    assert private.study.privacy.patient is not None
    assert mixed.simulation.partition.alpha == 0.1
    assert mixed.simulation.hospitals == 3
    assert all(each.simulation.data == folder / "clips" for each in found)
    assert plain.simulation.partition.kind == "folder"


@pytest.mark.parametrize(
    ("variations", "message"),
    [
        (
            "  a: {}\n  b: {training.proximal_mux: 1}\n",
            r"line 6, variation b: training.proximal_mux: unknown field; did you mean proximal_mu",
        ),
        (
            "  a:\n    rounds: 5\n    training.batch_size: none\n",
            "line 7, variation a: training.batch_size",
        ),
        ("  a: {trainin.batch_size: 2}\n", "line 5, variation a: trainin: .*did you mean training"),
        ("  a: {strategy: {kind: best}}\n", "line 5, variation a: strategy.kind"),
        ("  a: {privacy.patient: {epsilon: 8}}\n", "line 5, variation a: .*strategy.weigh_by"),
        ("  a: {seed.deep: 8}\n  b: {rounds.x.y: 1}\n", "line 5"),
        ("  a: {name.deep: 8}\n", "line 5: name.deep: name is 'base', which has nothing below"),
        (
            "  a: {simulation.partition.kin: uniform}\n",
            r"line 5, variation a: simulation.partition.kin: unknown field; did you mean kind",
        ),
        ("  a: {rounds: 2}\n  b: {}\n  a: {rounds: 3}\n", r"line 7: a is there twice \(line 5\)"),
        ("  a: {rounds: 2, rounds: 3}\n", r"line 5: rounds is there twice"),
        ("  A!: {}\n", r"variations\.A!"),
        ("  {}\n", "variations"),
    ],
)
def test_what_is_wrong_is_told_by_line_and_key(variations: str, message: str, folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_sweep(swept(folder, variations))


def test_a_wrong_base_is_told_as_the_bases(folder: Path) -> None:
    (folder / "base.yaml").write_text("name: base\nmodel: {in_channels: 6}\nrounds: 0\n")
    with pytest.raises(ConfigError, match=r"base\.yaml is not a valid configuration"):
        load_sweep(swept(folder, "  a: {}\n"))
