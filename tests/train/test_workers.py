"""A round in two processes: real ones, and made-up ones that misbehave on purpose."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest
import torch
from torch import Tensor

from feat_fed.codec import (
    Latent,
    LatentClip,
    LatentClips,
    LatentStore,
    LatentWindows,
    WaveletCodec,
    WindowsSource,
)
from feat_fed.codec.encoded import EncodedClip
from feat_fed.codec.latent_file import Recipe
from feat_fed.config import (
    ClipConfig,
    CodecConfig,
    ComputeConfig,
    DiffusionConfig,
    FEATConfig,
    TrainingConfig,
)
from feat_fed.errors import (
    CheckpointError,
    DataError,
    DeviceError,
    MemoryShortError,
    StalledError,
    StorageError,
    TrainingError,
)
from feat_fed.model import FEAT
from feat_fed.protocol import EndedBy
from feat_fed.train import (
    MidRound,
    RoundHooks,
    RoundJob,
    RoundResult,
    StepProgress,
    train_round,
    weights_of,
    workers,
)
from feat_fed.train.exchange import exchange_in
from feat_fed.train.mid_round import Checkpoints, MidRoundFile
from feat_fed.train.patience import Patience

MODEL = FEATConfig(in_channels=6, hidden_size=16, num_trios=1, num_heads=2, mlp_ratio=2.0)


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> LatentWindows:
    store = LatentStore(tmp_path_factory.mktemp("latents"))
    made = []
    for name in "abcde":
        generator = torch.Generator().manual_seed(ord(name))
        with EncodedClip("float16", store.folder) as encoded:
            encoded.add(Latent(torch.randn(1, 6, 6, 8, 8, generator=generator)))
            made.append(LatentClip(store.put(Recipe(name, ("test",)), encoded), patient=name))
    codec, config = WaveletCodec(CodecConfig()), ClipConfig(frames=3, size_px=32)
    return LatentWindows(LatentClips(tuple(made), (), store), codec=codec, clips=config)


def job(folder: Path, processes: int = 2, **training: object) -> RoundJob:
    torch.manual_seed(0)
    return RoundJob(
        model=MODEL,
        diffusion=DiffusionConfig(),
        training=TrainingConfig.model_validate(
            {"local_steps": 4, "batch_size": 3, "learning_rate": 1e-3, "optimiser_state": "kept"}
            | training
        ),
        weights=weights_of(FEAT(MODEL)),
        compute=ComputeConfig(device="cpu", devices=processes, threads=1),
        seed=7,
        first_step=0,
        total_steps=100,
        folder=folder,
    )


def apart(left: dict[str, Tensor], right: dict[str, Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def same(left: dict[str, Tensor] | None, right: dict[str, Tensor] | None) -> bool:
    assert left is not None and right is not None
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def shared_memory() -> set[Path]:
    """Segments there are; semaphores and those of Ray come and go with other tests."""
    others = ("sem.", "plasma", "ray")
    return {each for each in Path("/dev/shm").glob("*") if not each.name.startswith(others)}


EARLIER: set[psutil.Process] = set()
"""Processes that other tests of this process left, such as Python's own resource tracker."""


@pytest.fixture(scope="module", autouse=True)
def earlier() -> None:
    EARLIER.update(psutil.Process().children(recursive=True))


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each not in EARLIER]


@dataclass
class Seen:
    """What the hooks saw of a round, and what they ask for."""

    keep_at: int | None = None
    end_at: int | None = None
    steps: list[StepProgress] = field(default_factory=list)
    micro_batch: int = 0
    signs: int = 0
    kept: MidRound | None = None
    hosts: set[str] = field(default_factory=set)

    def hooks(self) -> RoundHooks:
        return RoundHooks(
            alive=self._alive,
            fitted=lambda clips: setattr(self, "micro_batch", clips),
            progress=self._progress,
            must_end=self._must_end,
            keep=self._keep,
        )

    def _alive(self) -> None:
        self.signs += 1

    def _progress(self, step: StepProgress) -> None:
        self.steps.append(step)
        for child in children():
            self.hosts |= {each.laddr.ip for each in child.net_connections() if each.laddr}

    def _must_end(self) -> EndedBy | None:
        return "pause" if len(self.steps) == self.end_at else None

    def _keep(self, make: Callable[[], MidRound]) -> None:
        if len(self.steps) == self.keep_at:
            self.kept = make()


@dataclass
class Whole:
    job: RoundJob
    seen: Seen
    result: RoundResult


@pytest.fixture(scope="module")
def whole(earlier: None, tmp_path_factory: pytest.TempPathFactory, clips: LatentWindows) -> Whole:
    """A round that nothing disturbs, by two workers under ZeRO-1."""
    task, seen = job(tmp_path_factory.mktemp("site") / "training"), Seen(keep_at=2)
    shared = shared_memory()
    result = train_round(task, train=clips, heldout=clips, hooks=seen.hooks())
    assert children() == []
    assert shared_memory() <= shared
    return Whole(task, seen, result)


def test_two_workers_give_what_one_process_gives(whole: Whole, clips: LatentWindows) -> None:
    lone = replace(whole.job, compute=ComputeConfig(device="cpu", threads=1))
    alone = train_round(lone, train=clips, heldout=clips, hooks=RoundHooks())
    result = whole.result
    moved = apart(alone.weights, dict(whole.job.weights))
    assert apart(result.weights, alone.weights) < 5e-4 * moved
    assert alone.optimiser_state is not None and result.optimiser_state is not None
    assert apart(result.optimiser_state, alone.optimiser_state) < 1e-6
    assert result.heldout_loss == pytest.approx(alone.heldout_loss, rel=1e-6)
    assert result.train_loss == pytest.approx(alone.train_loss, rel=1e-6)
    assert (result.steps, result.examples, result.ended_by) == (4, 5, "steps")


def test_the_hooks_see_the_round_from_outside(whole: Whole) -> None:
    seen = whole.seen
    assert [each.step for each in seen.steps] == [1, 2, 3, 4]
    assert all(each.steps == 4 and each.clips_per_sec > 0 for each in seen.steps)
    assert (seen.micro_batch, seen.signs > 8) == (2, True), "of three clips"
    assert seen.kept is not None and seen.kept.steps_done == 2
    assert seen.hosts <= {"127.0.0.1", "::1"} and seen.hosts


def test_logs_alone_are_left(whole: Whole) -> None:
    assert whole.job.folder is not None
    left = {each.name for each in whole.job.folder.iterdir()}
    assert left == {".lock", "worker-0.log", "worker-1.log"}


def test_a_round_resumed_by_two_workers_is_the_uninterrupted_one(
    whole: Whole, clips: LatentWindows
) -> None:
    seen = Seen()
    resumed = replace(whole.job, resume=whole.seen.kept)
    result = train_round(resumed, train=clips, heldout=clips, hooks=seen.hooks())
    assert [each.step for each in seen.steps] == [3, 4]
    assert same(result.weights, whole.result.weights)
    assert same(result.optimiser_state, whole.result.optimiser_state)
    assert result.heldout_loss == whole.result.heldout_loss
    assert result.train_loss == whole.result.train_loss


def test_a_killed_worker_costs_no_byte(
    whole: Whole, clips: LatentWindows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The other one ends with it, and both go on from the checkpoint."""
    seen, killed, shared = Seen(keep_at=2), [], shared_memory()

    def kill(step: StepProgress) -> None:
        seen.steps.append(step)
        if step.step == 3 and not killed:
            # FOLDER RANK SIZE PIPE
            killed.extend(each for each in children() if each.cmdline()[-3] == "1")
            killed[0].kill()

    folder = tmp_path / "training"
    task = replace(whole.job, folder=folder)
    hooks = replace(seen.hooks(), progress=kill)
    result = train_round(task, train=clips, heldout=clips, hooks=hooks)
    assert [each.step for each in seen.steps] == [1, 2, 3, 3, 4]
    assert "process 2 of 2 has ended (SIGKILL)" in caplog.text
    assert same(result.weights, whole.result.weights)
    assert same(result.optimiser_state, whole.result.optimiser_state)
    assert children() == []
    assert {each.name for each in folder.iterdir()} == {".lock", "worker-0.log", "worker-1.log"}
    assert shared_memory() <= shared


def test_a_pause_ends_all_workers_at_one_step(clips: LatentWindows, tmp_path: Path) -> None:
    """Without a folder of the site; the sources of the clips are opened anew."""
    task = replace(job(tmp_path, engine="torch"), folder=None)
    result = train_round(task, train=clips, heldout=None, hooks=Seen(end_at=2).hooks())
    assert (result.steps, result.ended_by, result.heldout_loss) == (2, "pause", None)
    assert list(tmp_path.iterdir()) == []


def test_windows_are_opened_from_their_source(clips: LatentWindows) -> None:
    text = clips.source().model_dump_json()
    opened = WindowsSource.model_validate_json(text).open()
    assert torch.equal(opened.batch(1, 2, 3), clips.batch(1, 2, 3))
    assert torch.equal(opened.fixed(4), clips.fixed(4))
    assert (opened.num_clips, opened.num_patients) == (5, 5)


def test_clips_that_only_this_process_has_are_refused(tmp_path: Path) -> None:
    class Mine:
        num_clips = 1

        def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
            raise AssertionError

    with pytest.raises(TrainingError, match="Mine cannot be opened by another process"):
        train_round(job(tmp_path), train=Mine(), heldout=None, hooks=RoundHooks())


MADE_UP = """
import json, os, signal, sys, time
from multiprocessing.connection import Connection
folder, rank, size, pipe = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
line = Connection(pipe)
def tell(kind, **more):
    line.send_bytes(json.dumps({"kind": kind, **more}).encode())
def failed(code, text):
    tell("failed", code=code, text=text)
    time.sleep(60)
tell("alive")
"""


@pytest.fixture
def made_up(
    clips: LatentWindows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., RoundResult]]:
    """Run a round whose workers do what a script says."""

    def run(script: str, hooks: RoundHooks | None = None, silent_sec: float = 30) -> RoundResult:
        (tmp_path / "made_up.py").write_text(MADE_UP + script)
        monkeypatch.setattr(workers, "_COMMAND", (sys.executable, str(tmp_path / "made_up.py")))
        return workers.train_in_workers(
            job(tmp_path / "training"),
            train=clips,
            heldout=None,
            hooks=hooks or RoundHooks(),
            patience=Patience(working_sec=silent_sec, step_sec=silent_sec),
        )

    yield run
    assert children() == []
    assert list((tmp_path / "training").glob("round-*")) == []


Run = Callable[..., RoundResult]


@pytest.mark.parametrize(
    ("code", "kind"),
    [("checkpoint", CheckpointError), ("data", DataError), ("training", TrainingError)],
)
def test_a_workers_error_keeps_its_class_and_text(
    made_up: Run, code: str, kind: type[Exception]
) -> None:
    script = f"failed('{code}', 'the clip has gone') if rank else time.sleep(60)"
    with pytest.raises(kind, match=r"^the clip has gone \(training process 2 of 2\).*worker-1.log"):
        made_up(script)


def test_the_first_cause_is_told_and_not_what_followed(made_up: Run) -> None:
    """The library's error of a broken exchange may be heard before the end of its cause."""
    script = """
if rank: time.sleep(0.5); os.kill(os.getpid(), signal.SIGSEGV)
failed(None, "RuntimeError: connection closed by peer")
"""
    with pytest.raises(TrainingError, match=r"process 2 of 2 has ended \(SIGSEGV\)"):
        made_up(script)


def test_workers_that_are_killed_again_and_again_end_the_round(
    made_up: Run, caplog: pytest.LogCaptureFixture
) -> None:
    script = "os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(60)"
    with pytest.raises(TrainingError, match=r"2 of 2 has ended \(SIGKILL\); its log.*worker-1.log"):
        made_up(script)
    assert caplog.text.count("all begin again") == 2


def test_an_error_of_no_known_class_is_told(made_up: Run) -> None:
    with pytest.raises(TrainingError, match="KeyError: 3"):
        made_up("failed(None, 'KeyError: 3') if rank else time.sleep(60)")


def test_silence_again_and_again_ends_the_round(
    made_up: Run, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StalledError, match=r"no training process .* for 1 s"):
        made_up("time.sleep(60)", silent_sec=1)
    assert caplog.text.count("all begin again") == 2


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        ("failed('memory', 'memory is full')", MemoryShortError),
        ("os.kill(os.getpid(), signal.SIGSEGV)", TrainingError),
        ("failed(None, 'RuntimeError: connection reset')", DeviceError),
    ],
)
def test_an_error_of_nccl_hides_no_other_ones(
    made_up: Run, cause: str, kind: type[Exception]
) -> None:
    script = f"""
if rank: time.sleep(0.3); {cause}
failed("device", "a GPU or its driver has failed (NCCL error)")
"""
    with pytest.raises(TrainingError) as raised:
        made_up(script)
    assert isinstance(raised.value, kind)
    assert ("NCCL" in str(raised.value)) == (kind is DeviceError)


@pytest.mark.parametrize("fitting", [1, 3])
def test_a_worker_killed_for_memory_is_one_without_memory(
    made_up: Run, fitting: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kills = iter(range(100))
    monkeypatch.setattr(workers, "oom_kills", lambda: next(kills))
    script = f"""
clips = json.load(open(f"{{folder}}/job.json"))["compute"]["micro_batch"] or {fitting}
tell("fitted", micro_batch=clips)
os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(60)
"""
    with pytest.raises(MemoryShortError, match=r"memory ran out: .* has ended \(SIGKILL\)"):
        made_up(script)
    assert ("with 2 clips at once" in caplog.text) == (fitting == 3)
    assert caplog.text.count(": all begin again\n") == 2


def test_a_checkpoint_that_no_file_takes_is_no_error_of_the_workers(
    made_up: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """But what ends a worker in the midst of one is."""
    script = """
if rank: time.sleep(60)
tell("keep?"); line.recv_bytes(); tell("keep failed", text="the disk is full")
tell("keep?"); line.recv_bytes(); failed("storage", "the clip cannot be copied")
"""
    kept: list[str] = []

    def keep(make: Callable[[], MidRound]) -> None:
        try:
            make()
        except StorageError as error:
            kept.append(str(error))

    with pytest.raises(TrainingError, match="the clip cannot be copied"):
        made_up(script, RoundHooks(keep=keep))
    assert kept == ["the disk is full"]


def test_a_disk_that_takes_weights_alone_costs_no_round(
    whole: Whole, clips: LatentWindows, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With the optimiser's state a file has three times their size."""
    task = replace(whole.job, folder=tmp_path / "training")
    checkpoints = Checkpoints(MidRoundFile(tmp_path / "under-way.safetensors", "x"), 1e-9)
    room_bytes = 2 * sum(each.nbytes for each in task.weights.values())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, before[1]))
    try:
        result = train_round(
            task, train=clips, heldout=clips, hooks=RoundHooks(keep=checkpoints.keep)
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert same(result.weights, whole.result.weights)
    assert (result.steps, result.optimiser_state) == (4, None)
    assert caplog.text.count("goes on without this checkpoint") == 4
    assert "OLDER OPTIMISER" in caplog.text


def test_a_worker_that_stops_is_no_stall_while_another_lives(made_up: Run) -> None:
    script = """
for _ in range(8):
    if not rank: tell("alive"); time.sleep(0.5)
failed("training", "enough") if not rank else time.sleep(60)
"""
    with pytest.raises(TrainingError, match="enough"):
        made_up(script, silent_sec=3)


def test_an_error_in_a_hook_ends_the_workers(made_up: Run) -> None:
    def full(_: object) -> None:
        raise CheckpointError("the disk is full")

    script = """
tell("stepped", step=1, steps=2, loss=1.0, clips_per_sec=1.0, seconds=1.0, gradient_norm=1.0,
     learning_rate=1.0, memory_bytes=1)
time.sleep(60)
"""
    with pytest.raises(CheckpointError, match="the disk is full"):
        made_up(script, RoundHooks(progress=full))


def test_after_memory_ran_out_all_begin_again_with_half(
    made_up: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    script = """
job = json.load(open(f"{folder}/job.json"))
clips = job["compute"]["micro_batch"] or 3
tell("fitted", micro_batch=clips)
failed("memory" if clips > 1 else "training", f"with {clips}") if rank else time.sleep(60)
"""
    with pytest.raises(TrainingError, match="with 1"):
        made_up(script)
    assert "all begin again, with 2 clips at once" in caplog.text
    assert "all begin again, with 1 clips at once" in caplog.text


def test_what_the_first_worker_logs_is_in_the_log(
    made_up: Run, caplog: pytest.LogCaptureFixture
) -> None:
    script = """
if not rank: tell("said", level=30, logger="feat_fed.train.steps", text="step 3: skipped")
failed("training", "enough") if not rank else time.sleep(60)
"""
    with caplog.at_level(logging.WARNING), pytest.raises(TrainingError):
        made_up(script)
    assert ("feat_fed.train.steps", logging.WARNING, "step 3: skipped") in caplog.record_tuples


OWNER = """
import os, sys, time
from pathlib import Path
from feat_fed.train.exchange import exchange_in
with exchange_in(Path(sys.argv[1])) as exchange:
    (exchange.folder / "job.json").write_text("{}")
    print(exchange.folder, flush=True)
    time.sleep(60)
"""


def test_a_dead_owners_folder_goes_and_a_living_ones_stays(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, tmp_path], stdout=subprocess.PIPE)
    assert owner.stdout is not None
    theirs = Path(owner.stdout.readline().decode().strip())
    with exchange_in(tmp_path) as first:
        assert theirs.is_dir() and first.folder.is_dir()
        owner.kill()
        owner.wait()
        owner.stdout.close()
        with exchange_in(tmp_path) as second:
            assert not theirs.exists()
            assert first.folder.is_dir() and second.folder != first.folder
    assert [each.name for each in tmp_path.iterdir()] == [".lock"]
