"""What two processes train, by either engine and every ZeRO stage, against one process.

The engines run in one pair of processes, which write down what they saw; the tests read it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCRIPT = """
import json, os, sys, warnings
from contextlib import closing
import torch
from torch import Tensor, distributed
from feat_fed.config import DiffusionConfig, FEATConfig, TrainingConfig
from feat_fed.diffusion import Schedule
from feat_fed.errors import CheckpointError
from feat_fed.model import FEAT
from feat_fed.train import RoundJob, open_engine
from feat_fed.train.batches import losses_of_batch
from feat_fed.train.peers import ALONE, Peers

folder, rank = sys.argv[1], int(sys.argv[2])
os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), GLOO_SOCKET_IFNAME="lo")
warnings.simplefilter("ignore", FutureWarning)
torch.set_num_threads(1)
store = distributed.FileStore(f"{folder}/rendezvous", 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
PAIR = Peers(rank, 2)
# A temperature of one element does not divide by two.
MODEL = FEATConfig(in_channels=2, hidden_size=16, num_trios=1, num_heads=1, mlp_ratio=2.0)
SCHEDULE = Schedule.linear(DiffusionConfig())

def network():
    torch.manual_seed(0)
    model = FEAT(MODEL)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model

def run(engine, stage, peers, *, steps=range(5), batch=5, checkpointing=False, after=None, **more):
    training = TrainingConfig.model_validate(
        {"engine": engine, "batch_size": batch, "learning_rate": 1e-3, "weight_decay": 0.1}
        | {"gradient_clip": 0.5, "proximal_mu": 0.5} | more
    )
    model = network()
    model.gradient_checkpointing = checkpointing
    job = RoundJob(model=MODEL, diffusion=DiffusionConfig(), training=training, weights={}, seed=1,
                   first_step=0, total_steps=9)
    outcomes = []
    with closing(open_engine(model, training, peers=peers, zero_stage=stage)) as opened:
        if after is not None:
            opened.load_weights(after[1])
            opened.load_optimiser_state(after[2])
        for step in steps:
            z = torch.randn(batch, 3, 2, 8, 8, generator=torch.Generator().manual_seed(step))
            if step == 1:
                z[-1, 0, 0, 0, 0] = torch.nan  # of the second process alone
            parts = losses_of_batch(z, SCHEDULE, job, step=step, micro_batch=2, peers=peers)
            before = opened.weights() if step == 1 else None
            outcome = opened.step(parts)
            outcomes.append((outcome.loss, outcome.gradient_norm))
            if before is not None:
                assert not outcome.taken and same(opened.weights(), before)
        return outcomes, opened.weights(), opened.optimiser_state()

def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)

def apart(left, right):
    return max(float((left[k] - right[k]).abs().max()) for k in right)

start = network().state_dict()
alone = run("torch", 0, ALONE)
tiny = run("torch", 0, ALONE, batch=1, steps=[0, 2])
moved = max(float((alone[1][k] - start[k]).abs().max()) for k in start)
found = {"norms": [norm for _, norm in alone[0]]}
for engine, stage in (("torch", 0), *(("deepspeed", each) for each in range(4))):
    whole = run(engine, stage, PAIR)
    first = run(engine, stage, PAIR, steps=range(3))
    loaded = run(engine, stage, PAIR, steps=[], after=alone)
    one = run(engine, stage, PAIR, batch=1, steps=[0, 2])
    found[f"{engine} {stage}"] = {
        "weights": apart(whole[1], alone[1]) / moved,
        "moments": apart(whole[2], alone[2]),
        "names": whole[2].keys() == alone[2].keys(),
        "outcomes": [
            abs(a - b) for x, y in zip(whole[0], alone[0]) for a, b in zip(x, y) if b == b
        ],
        "state arrives": same(loaded[2], alone[2]) and same(loaded[1], alone[1]),
        "goes on": [same(a, b) for a, b in zip(
            run(engine, stage, PAIR, steps=range(3, 5), after=first)[1:], whole[1:])],
        "a clip for two": apart(one[1], tiny[1]) / moved,
    }
checkpointed = run("deepspeed", 3, PAIR, checkpointing=True)
found["checkpointing"] = same(checkpointed[1], run("deepspeed", 3, PAIR)[1])
losses = {}
for precision in ("fp32", "bf16"):
    pair = run("deepspeed", 2, PAIR, steps=[0, 2], precision=precision)[0]
    lone = run("torch", 0, ALONE, steps=[0, 2], precision=precision)[0]
    losses[precision] = [loss for loss, _ in pair]
    found[precision] = max(abs(x[0] - y[0]) for x, y in zip(pair, lone))
found["rounding"] = max(abs(x - y) for x, y in zip(*losses.values()))
odd = dict(alone[2])
odd["step/patch.weight"] = odd["step/patch.weight"] + 1
try:
    run("deepspeed", 1, PAIR, steps=[], after=(None, alone[1], odd))
except CheckpointError as error:
    found["odd"] = str(error)
if rank == 0:
    with open(f"{folder}/found.json", "w") as file:
        json.dump(found, file)
"""

STAGES = ["torch 0", *(f"deepspeed {each}" for each in range(4))]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pair")
    (folder / "pair.py").write_text(SCRIPT)
    pair = [
        subprocess.Popen(
            [sys.executable, folder / "pair.py", folder, str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in (0, 1)
    ]
    try:
        told = [each.communicate(timeout=500)[0].decode() for each in pair]
    finally:
        for each in pair:
            each.kill()
    assert [each.returncode for each in pair] == [0, 0], "\n".join(told)
    return json.loads((folder / "found.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_give_the_weights_of_one(found: dict[str, Any], stage: str) -> None:
    """Five clips in parts of two, clipped, pulled, decayed, and one step skipped by both."""
    assert min(each for each in found["norms"] if each == each) > 0.5, "the clip must bite"
    seen = found[stage]
    assert seen["weights"] < 5e-4, "of the largest change of a weight"
    assert seen["moments"] < 1e-6 and seen["names"]
    assert len(seen["outcomes"]) == 8 and max(seen["outcomes"]) < 2e-6


@pytest.mark.parametrize("stage", STAGES)
def test_the_optimisers_state_goes_from_one_process_to_two_exactly(
    found: dict[str, Any], stage: str
) -> None:
    assert found[stage]["state arrives"]
    assert found[stage]["goes on"] == [True, True], "weights and state after a pause"


@pytest.mark.parametrize("stage", STAGES)
def test_a_process_without_clips_takes_part(found: dict[str, Any], stage: str) -> None:
    assert found[stage]["a clip for two"] < 5e-4


def test_checkpointed_activations_and_bfloat16_work_in_shards(found: dict[str, Any]) -> None:
    assert found["checkpointing"] is True
    assert found["fp32"] < 1e-6 < found["bf16"] < 0.01
    assert 1e-6 < found["rounding"] < 0.01
    assert "weights have taken from 4 to 5 steps" in found["odd"]
