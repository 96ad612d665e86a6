"""Private steps of two processes, by either engine and ZeRO 0 to 2, against one process.

What an engine took for the gradient is read off AdamW's first moment after one step, which is a
tenth of it. The processes write down what they saw; the tests read it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = """
import json, math, os, sys, warnings
from contextlib import closing
import torch
from torch import distributed
from private_patients import Patients, network, private_job
from feat_fed.privacy.noise import GaussianNoise
from feat_fed.train import open_engine, private
from feat_fed.train.peers import ALONE, Peers

folder, rank = sys.argv[1], int(sys.argv[2])
os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), GLOO_SOCKET_IFNAME="lo")
warnings.simplefilter("ignore", FutureWarning)
torch.set_num_threads(1)
store = distributed.FileStore(f"{folder}/rendezvous", 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
PAIR = Peers(rank, 2)
EVERYBODY = ["a", "b", "cc", "d", "LOST"]
private.GaussianNoise = lambda: GaussianNoise(bytes(32))
sampled = private.poisson_sample

def run(engine, stage, peers, batches, *, micro_batch=2, checkpointing=False, **privacy):
    private.poisson_sample = lambda number, rate: [EVERYBODY.index(each) for each in taking_part]
    job = private_job(
        {"clips_per_patient": 2, "draws": 2} | privacy, training={"engine": engine}
    )
    training = job.training.model_copy(update={"gradient_clip": None})
    model = network()
    model.gradient_checkpointing = checkpointing
    with closing(open_engine(model, training, peers=peers, zero_stage=stage)) as opened:
        opened.set_learning_rate(1e-3)
        steps = private.PrivateSteps(
            job, job.privacy, model, opened, Patients(EVERYBODY), peers=peers
        )
        outcomes = []
        for step, taking_part in enumerate(batches):
            outcome = steps.begin(step)(micro_batch)
            assert outcome.taken
            outcomes += [outcome.loss, outcome.gradient_norm]
        moments, weights = opened.optimiser_state(), opened.weights()
    expected = job.privacy.sample_rate * len(EVERYBODY)
    total = torch.cat([
        moments[f"exp_avg/{name}"].flatten() * 10 * expected for name, _ in model.named_parameters()
    ])
    return total, weights, outcomes

def apart(left, right):
    return max(float((left[k] - right[k]).abs().max()) for k in right)

ROUND = [EVERYBODY, [], ["b"], ["a", "cc", "d"]]
start = network().state_dict()
alone = run("torch", 0, ALONE, ROUND)
moved = apart(alone[1], start)
whole = run("torch", 0, ALONE, [EVERYBODY])[0]
noise = run("torch", 0, ALONE, [[]], noise_multiplier=1.0)[0]
found = {"noise": float(noise.std()), "moved": moved, "sum": float(whole.norm())}
for engine, stage in (("torch", 0), ("deepspeed", 0), ("deepspeed", 1), ("deepspeed", 2)):
    several = run(engine, stage, PAIR, ROUND)
    sums = {
        gone: run(
            engine, stage, PAIR, [[each for each in EVERYBODY if each != gone]],
            micro_batch=3, checkpointing=True,
        )[0]
        for gone in ("", "cc", "LOST")
    }
    found[f"{engine} {stage}"] = {
        "weights": apart(several[1], alone[1]) / moved,
        "outcomes": max(abs(a - b) for a, b in zip(several[2], alone[2])),
        "sum": float((sums[""] - whole).norm()),
        "moves": {gone: float((sums[""] - each).norm()) for gone, each in sums.items() if gone},
        "noise": float((run(engine, stage, PAIR, [[]], noise_multiplier=1.0)[0] - noise).norm()),
    }
private.poisson_sample = sampled
job = private_job()
with closing(open_engine(network(), job.training, peers=PAIR)) as opened:
    many = Patients([str(each) for each in range(400)])
    steps = private.PrivateSteps(job, job.privacy, network(), opened, many, peers=PAIR)
    drawn = [steps.drawn() for _ in range(3)]
with open(f"{folder}/drawn-{rank}.json", "w") as file:
    json.dump(drawn, file)
if rank == 0:
    with open(f"{folder}/found.json", "w") as file:
        json.dump(found, file)
"""

STAGES = ["torch 0", *(f"deepspeed {each}" for each in range(3))]
CLIP = 0.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "pair.py").write_text(SCRIPT)
    here = {"PYTHONPATH": os.pathsep.join(each for each in sys.path if each)}
    pair = [
        subprocess.Popen(
            [sys.executable, folder / "pair.py", folder, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | here,
        )
        for rank in (0, 1)
    ]
    try:
        told = [each.communicate(timeout=500)[0].decode() for each in pair]
    finally:
        for each in pair:
            each.kill()
    assert [each.returncode for each in pair] == [0, 0], "\n".join(told)
    return folder


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "found.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_take_the_private_steps_of_one(found: dict[str, Any], stage: str) -> None:
    """With a step of nobody, one in which one of the two has nobody, and one lost patient."""
    assert found["moved"] > 1e-3
    assert found[stage]["weights"] < 5e-4, "of the largest change of a weight"
    assert found[stage]["outcomes"] < 1e-5


@pytest.mark.parametrize("stage", STAGES)
def test_no_patient_moves_the_sum_of_two_processes_further_than_the_bound(
    found: dict[str, Any], stage: str
) -> None:
    """As the engine took it, with micro-batches and checkpointed activations."""
    assert found["sum"] > 2 * CLIP, "several patients' gradients are clipped"
    assert found[stage]["sum"] < 1e-5
    moves = found[stage]["moves"]
    assert moves["LOST"] < 1e-6, "but for the order in which the others are added up"
    assert 0.99 * CLIP < moves["cc"] <= CLIP


@pytest.mark.parametrize("stage", STAGES)
def test_noise_is_added_once(found: dict[str, Any], stage: str) -> None:
    assert found["noise"] == pytest.approx(CLIP, rel=0.05), "of some ten thousand numbers"
    assert found[stage]["noise"] < 1e-4


def test_the_first_of_two_processes_draws_for_both(folder: Path) -> None:
    drawn = [json.loads((folder / f"drawn-{rank}.json").read_text()) for rank in (0, 1)]
    assert drawn[0] == drawn[1]
    assert all(100 < len(each) < 300 for each in drawn[0])
    assert drawn[0][0] != drawn[0][1]
