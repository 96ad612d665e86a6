"""Three hospitals with all of a study's privacy on real processes; one is killed in between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml
from pydantic import BaseModel
from torch import Tensor

from feat_fed.audit import FOLDER, lines, verify
from feat_fed.model.checkpoint import read_weights
from feat_fed.privacy.accounting import NoisySteps, rdp_epsilon
from feat_fed.privacy.ledger import Ledger
from feat_fed.report import RunStore
from feat_fed.tensor_file import read_tensor_file
from system.consortium import NAMES, Consortium, make_folders
from system.study_runs import TINY, Command
from waiting import wait_until

SERVER_PROCESSES = ("feat_fed_server.superlink", "feat_fed_server 127")
VALUES = 32
STEPS = 24


class AnyHeader(BaseModel):
    """Of any of our tensor files."""


def write_study(path: Path) -> Path:
    tree = yaml.safe_load(TINY.read_text()) | {
        "rounds": 1,
        "strategy": {"weigh_by": "equal"},
        "privacy": {
            "patient": {"noise_multiplier": 1.0, "sample_rate": 0.5},
            "secure_aggregation": {"threshold": 2},
            "central": {"noise_multiplier": 0.5, "clip_norm": 5.0, "clipping": "adaptive"},
        },
    }
    tree["sites"] |= {"minimum": 3, "wait_sec": 300, "round_sec": 300}
    tree["training"]["local_steps"] = STEPS
    path.write_text(yaml.safe_dump(tree))
    return path


def kinds(root: Path) -> list[dict[str, Any]]:
    return [each.event for each in lines(root / FOLDER)] if (root / FOLDER).exists() else []


def has(root: Path, kind: str) -> bool:
    return any(each["kind"] == kind for each in kinds(root))


def spooled(store: Path) -> dict[str, Tensor]:
    [path] = store.glob("spool/*/round-0001.safetensors")
    return read_tensor_file(path, AnyHeader)[1]


def memory_of(process: psutil.Process) -> Iterator[bytes]:
    """Yield what a process has written into its memory, region for region."""
    maps = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    with Path(f"/proc/{process.pid}/mem").open("rb") as memory:
        for line in maps:
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) rw.. .*?(\[v\w+\])?$", line)
            if found and not found[3]:
                first, last = (int(each, 16) for each in found.groups()[:2])
                memory.seek(first)
                try:
                    yield memory.read(last - first)
                except OSError:  # unmapped meanwhile
                    continue


def of_server(server: Command) -> list[psutil.Process]:
    return [
        each
        for each in server.family()
        if any(word in " ".join(each.cmdline()) for word in SERVER_PROCESSES)
    ]


@pytest.mark.slow
def test_the_server_never_holds_an_update_and_a_killed_site_goes_on(tmp_path: Path) -> None:
    made = tmp_path / "made"
    made.mkdir()
    make_folders(made)
    consortium = Consortium(tmp_path / "consortium", made)
    study = write_study(tmp_path / "study.yaml")
    run = consortium.root / "runs" / "tiny"
    stores = {name: consortium.root / name / "store" for name in NAMES}
    with (
        consortium.server("--study", study) as server,
        consortium.client(NAMES[0]) as first,
        consortium.client(NAMES[1]),
    ):
        with consortium.client(NAMES[2]) as killed:
            wait_until(lambda: has(run, "masks-agreed"), 60, server.text)
            for each in [*killed.family(), psutil.Process(killed.process.pid)]:
                each.kill()
        inbox = RunStore(run).inbox(1)
        masked = [inbox / f"{name}.safetensors" for name in NAMES[:2]]
        wait_until(lambda: all(each.exists() for each in masked), 60, server.text)
        look_for_updates(run, stores, of_server(server))
        with consortium.client(NAMES[2]):
            assert server.end(300) == 0, server.text()
        assert "Traceback" not in first.text()
    store = RunStore(run)
    [record] = store.rounds()
    assert [(each.site, each.status) for each in record.sites] == [(name, "ok") for name in NAMES]
    assert record.central is not None and record.central.share_within is not None
    assert not has(run, "masks-given-up")
    [unmasked] = [each for each in kinds(run) if each["kind"] == "sum-unmasked"]
    assert unmasked["sites"] == list(NAMES)
    for root in (run, *stores.values()):
        assert not verify(root / FOLDER).problems
    told = [each for each in kinds(stores[NAMES[0]]) if each["kind"] == "enclosed-leaving"]
    assert [each["task"] for each in told] == ["keys", "shares", "train", "unmask"]
    # Whatever was killed, each site has spent a round of the study's plan, and told no more of it.
    spent = rdp_epsilon([NoisySteps(1.0, 0.5, STEPS)], delta=1e-5)
    for name, root in stores.items():
        assert Ledger(root, name).read().epsilon(delta=1e-5) == pytest.approx(spent)
        [left] = [
            each for each in kinds(root) if each["kind"] == "leaving" and each["weights_bytes"]
        ]
        assert left["epsilon"] == pytest.approx(spent)
    assert {(each.examples, each.train_loss, each.train_sec) for each in record.sites} == {
        (1, None, 0.0)
    }


def look_for_updates(run: Path, stores: dict[str, Path], processes: list[psutil.Process]) -> None:
    """Look for two sites' updates, in any form, wherever the server may have them."""
    before = read_weights(
        RunStore(run).checkpoint(0), kind="global", model=RunStore(run).study.model
    ).tensors
    name = max(before, key=lambda each: before[each].numel())
    start = before[name].flatten()[:VALUES]
    assert len(processes) == 3  # the executor, and the ServerApp that it has forked
    places = [each.read_bytes() for each in run.rglob("*") if each.is_file()]
    of_memory = [region for each in processes for region in memory_of(each)]
    for found in (places, of_memory):  # what is there is found
        assert any(start.numpy().tobytes() in each for each in found)
    for site in NAMES[:2]:
        trained = spooled(stores[site])[name].flatten()[:VALUES]
        assert not torch.equal(trained, start)
        for trace in (trained, trained - start, trained.double() - start.double()):
            pattern = trace.numpy().tobytes()
            assert not any(pattern in each for each in (*places, *of_memory)), site
