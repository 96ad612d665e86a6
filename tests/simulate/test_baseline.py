"""Baselines: the study's own training, on other clips, and scored by the same yardstick."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from feat_fed.cli import simulation
from feat_fed.cli.baseline import Baseline, heldout_of, plan_baselines, run_baselines
from feat_fed.cli.main import run_app
from feat_fed.config import SiteConfig, StudyConfig
from feat_fed.data.synthetic import write_demo_hospitals
from feat_fed.errors import ConfigError, RunError
from feat_fed.model import FEAT, read_weights
from feat_fed.protocol import Assignment
from feat_fed.report.baseline_folder import BaselineFolder, mean_loss, read_scores, scores_of
from feat_fed.report.records import RoundRecord, SiteRound
from feat_fed.report.run_store import RunStore, lock_run
from feat_fed.simulate import fix_pseudonyms, virtual_sites
from feat_fed.simulate.baseline import (
    BaselinePlan,
    HeldoutScores,
    baseline_study,
    score_federated,
    train_baseline,
)
from feat_fed.tensor_file import read_digest
from feat_fed.train import StepProgress
from feat_fed.train.run_state import GlobalState, restore, save, summarise
from feat_fed_client.session import SiteClips, SiteSession

STUDY = {
    "name": "tiny",
    "rounds": 2,
    "seed": 3,
    "model": {"in_channels": 6, "hidden_size": 16, "num_trios": 1, "num_heads": 2},
    "clips": {"frames": 2, "size_px": 32, "heldout_fraction": 0.4},
    "training": {
        "engine": "torch",
        "local_steps": 4,
        "batch_size": 2,
        "learning_rate": 0.01,
        "heldout_clips": 2,
    },
    "sampler": {"kind": "ddim", "steps": 2, "num_clips": 1},
}


@dataclass
class Simulated:
    """A complete run of two hospitals and what it was made of."""

    store: RunStore
    sites: tuple[SiteConfig, ...]
    clips: dict[str, SiteClips]
    plan: BaselinePlan

    def ask(self, name: str, task: str, number: int, state: GlobalState) -> object:
        site = next(each for each in self.sites if each.name == name)
        assignment = Assignment(
            study_id=self.store.summary().study_id,
            round=number,
            task=task,  # type: ignore[arg-type]
            first_step=(number - 1) * self.store.study.training.local_steps,
            study=self.store.study,
        )
        return SiteSession(site).run(assignment, state.weights)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Simulated:
    root = tmp_path_factory.mktemp("runs")
    store = RunStore.create(root / "sim", StudyConfig.model_validate(STUDY))
    data = write_demo_hospitals(
        store.root / "data", hospitals=2, patients_per_hospital=3, clips_per_patient=1
    )
    alone = {"workers": 1}  # that looks at the files
    sites = virtual_sites(store, {name: e.model_copy(update=alone) for name, e in data.items()})
    fix_pseudonyms(sites, seed=0)
    state = restore(store)
    with torch.no_grad():
        last = {name: each + 0.01 for name, each in state.weights.items()}
    told = {"hospital-1": 1.5, "hospital-2": 1.25}
    for number in (1, 2):
        parts = tuple(
            SiteRound(site=name, status="ok", examples=2, heldout_loss=loss)
            for name, loss in told.items()
            if (name, number) != ("hospital-2", 2)  # one told nothing of round 1's weights
        )
        store.append(
            RoundRecord(
                round=number,
                started_at="2026-01-31T12:00:00+00:00",
                seconds=1,
                train_loss=1.0,
                heldout_loss=1.0,
                sites=parts,
            )
        )
        state = state.after_round(last, ema_decay=0.5)
        save(store, state)
    summarise(store, state, "complete", final_heldout_loss=1.0)
    clips = plan_baselines(store, sites)
    plan = BaselinePlan.model_validate_json(BaselineFolder.of_run(store.root).plan.read_bytes())
    return Simulated(store, sites, clips, plan)  # type: ignore[arg-type]


@pytest.fixture
def own(simulated: Simulated, tmp_path: Path) -> RunStore:
    return RunStore.create(tmp_path / "baseline", baseline_study(simulated.store.study))


def facts_of(simulated: Simulated) -> dict[str, object]:
    return BaselineFolder.of_run(simulated.store.root).facts()  # type: ignore[return-value]


def train(simulated: Simulated, store: RunStore, hospital: str | None, **more: object) -> None:
    facts = facts_of(simulated)
    train_baseline(store, simulated.plan, facts, hospital=hospital, **more)  # type: ignore[arg-type]


def weights(store: RunStore, number: int) -> dict[str, torch.Tensor]:
    return read_weights(store.checkpoint(number), kind="global").tensors


def test_a_hospital_alone_takes_the_steps_it_takes_in_the_study(
    simulated: Simulated, own: RunStore
) -> None:
    train(simulated, own, "hospital-2")
    begin = restore(simulated.store)
    assert begin.rounds_done == 2
    begin = GlobalState(0, weights(simulated.store, 0), {})
    _, trained = simulated.ask("hospital-2", "train", 1, begin)  # type: ignore[misc]
    assert all(torch.equal(trained[name], each) for name, each in weights(own, 1).items())
    # From the second round on AdamW's moments are kept, which the study resets.
    state = GlobalState(1, weights(own, 1), {})
    _, reset = simulated.ask("hospital-2", "train", 2, state)  # type: ignore[misc]
    assert not all(torch.equal(reset[name], each) for name, each in weights(own, 2).items())


def test_hospitals_score_as_they_score_in_the_study(simulated: Simulated, own: RunStore) -> None:
    torch.manual_seed(1)
    model = FEAT(own.study.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    state = GlobalState(1, model.state_dict(), {})
    losses = HeldoutScores(simulated.plan, own.study).of(state.weights)
    assert losses.keys() == {"hospital-1", "hospital-2"}
    for name, loss in losses.items():
        report, _ = simulated.ask(name, "evaluate", 1, state)  # type: ignore[misc]
        assert loss == pytest.approx(report.heldout_loss, rel=1e-6)


def test_all_in_one_place_has_every_training_clip_and_nobody_held_out(
    simulated: Simulated, own: RunStore
) -> None:
    pooled = simulated.plan.training_of(None).train.open()
    each = simulated.clips.values()
    assert pooled.num_clips == sum(clips.train.num_clips for clips in each)
    held_out = {patient for clips in each if clips.heldout for patient in clips.heldout.patients}
    assert held_out and not held_out & set(pooled.patients)
    train(simulated, own, None)
    summary = own.summary()
    assert (summary.state, summary.rounds_done) == ("complete", 2)
    assert list(read_scores(scores_of(own.root))) == [0, 1, 2]
    assert [record.sites[0].examples for record in own.rounds()] == [pooled.num_clips] * 2


def test_stopped_in_a_round_it_goes_on_to_the_same_bytes(
    simulated: Simulated, own: RunStore, tmp_path: Path
) -> None:
    def stop(number: int, step: StepProgress) -> None:
        if (number, step.step) == (2, 3):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(simulated, own, None, progress=stop)
    assert own.latest_round() == 1
    whole = RunStore.create(tmp_path / "whole", own.study)
    train(simulated, whole, None)
    train(simulated, own, None)
    for number in (1, 2):
        assert read_digest(own.checkpoint(number)) == read_digest(whole.checkpoint(number))
        assert read_digest(own.optimiser(number)) == read_digest(whole.optimiser(number))
    assert scores_of(own.root).read_bytes() == scores_of(whole.root).read_bytes()


def test_the_studys_scores_are_told_ones_or_computed(simulated: Simulated, tmp_path: Path) -> None:
    store = RunStore(shutil.copytree(simulated.store.root, tmp_path / "copy"))
    path = BaselineFolder.of_run(store.root).federated
    score_federated(store, simulated.plan)
    scores = read_scores(path)
    assert scores[0] == {"hospital-1": 1.5, "hospital-2": 1.25}  # both told it in round 1
    assert scores[1] == scores[2] != scores[0]  # computed, of equal weights
    assert scores[1].keys() == scores[0].keys()
    path.unlink()
    store.checkpoint(1).unlink()
    score_federated(store, simulated.plan)
    assert list(read_scores(path)) == [0, 2]  # nobody knows any more


def test_the_study_alone_has_nothing_of_a_federation() -> None:
    tree = {
        **STUDY,
        "strategy": {"kind": "fedadam", "weigh_by": "equal", "ema_decay": 0.25},
        "sites": {"minimum": 3},
        "privacy": {
            "patient": {"noise_multiplier": 1.0},
            "central": {"noise_multiplier": 2.0},
            "secure_aggregation": {},
        },
    }
    tree["training"] = {**STUDY["training"], "proximal_mu": 0.1}  # type: ignore[dict-item]
    study = StudyConfig.model_validate(tree)
    alone = baseline_study(study)
    assert StudyConfig.model_validate(alone.model_dump(mode="json")) == alone
    assert alone.privacy.protections == {"patient"}
    assert alone.training.proximal_mu == 0 and alone.training.optimiser_state == "kept"
    kept = ("proximal_mu", "optimiser_state")
    same = {key: value for key, value in study.training.model_dump().items() if key not in kept}
    assert same.items() <= alone.training.model_dump().items()
    assert baseline_study(study, hospitals=3).training.batch_size == 3 * study.training.batch_size
    for part in ("name", "rounds", "seed", "model", "diffusion", "codec", "clips", "checkpoints"):
        assert getattr(alone, part) == getattr(study, part)


def test_clips_of_several_classes_are_not_put_in_one_place(simulated: Simulated) -> None:
    one, two = simulated.plan.hospitals.values()
    hospitals = {"a": one.model_copy(update={"label": 0}), "b": two.model_copy(update={"label": 1})}
    with pytest.raises(ConfigError, match=r"different classes .*a: 0, b: 1.*centralised out"):
        BaselinePlan(hospitals=hospitals).training_of(None)
    assert BaselinePlan(hospitals=hospitals).training_of("b").label == 1


@pytest.mark.slow
def test_the_command_trains_what_is_left_and_tells_what_fails(
    simulated: Simulated,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = RunStore(shutil.copytree(simulated.store.root, tmp_path / "run"))
    folder = BaselineFolder.of_run(store.root)
    if not folder.federated.exists():
        score_federated(store, simulated.plan)
    store.report.touch()
    (store.samples / "samples.gif").touch()
    monkeypatch.setattr(simulation, "hospitals_of_run", lambda *_: simulated.sites)
    command = ["simulate", "--study", str(store.root / "study.yaml"), "--runs", str(tmp_path)]
    command += ["--run", "run", "--baseline", "local-only"]

    done = RunStore.create(folder.alone("hospital-2"), baseline_study(store.study))
    train(simulated, done, "hospital-2")
    before = done.checkpoint(2).stat().st_mtime_ns
    in_the_way = folder.alone("hospital-1")
    in_the_way.mkdir(parents=True)
    (in_the_way / "notes.txt").touch()
    assert run_app(command) == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "error: baselines failed; the same command tries again: local-only/hospital-1:" in told
    assert "Traceback" not in told

    shutil.rmtree(in_the_way)
    assert run_app(command) == 0
    told = capsys.readouterr().err
    assert "local-only/hospital-1: held-out loss" in told
    assert "hospital-2:" not in told and done.checkpoint(2).stat().st_mtime_ns == before
    assert list(read_scores(scores_of(folder.alone("hospital-1")))) == [0, 1, 2]
    assert "What federating is worth" in store.report.read_text()

    assert run_app(command) == 0
    assert "the baselines are complete" in capsys.readouterr().err
    facts, last = folder.facts(), read_scores(folder.federated)[2]
    assert heldout_of(store, simulated.sites) == mean_loss(last, facts)
    with lock_run(store.root, "baselines"), pytest.raises(RunError, match="another process"):
        run_baselines(store, simulated.sites, [Baseline.CENTRALISED])
