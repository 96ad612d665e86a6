"""A batch in parts against the batch at once; the dry step against arithmetic."""

import logging
from contextlib import closing

import pytest
import torch
from torch import Tensor, nn

from feat_fed.config import ComputeConfig, DiffusionConfig, FEATConfig, TrainingConfig
from feat_fed.diffusion import Schedule
from feat_fed.errors import MemoryShortError
from feat_fed.model import FEAT
from feat_fed.train import RoundHooks, RoundJob, open_engine, train_round, weights_of
from feat_fed.train import fit as fit_module
from feat_fed.train import steps as steps_module
from feat_fed.train.batches import losses_of_batch
from feat_fed.train.fit import fitting_micro_batch, state_copies, step_bytes

MODEL = FEATConfig(in_channels=2, hidden_size=16, num_trios=1, num_heads=2, num_classes=2)
BATCH = 5


def network() -> FEAT:
    torch.manual_seed(0)
    model = FEAT(MODEL)
    for parameter in model.parameters():  # its gates are zero at the start
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


class Noise:
    num_clips = 8

    def batch(self, seed: int, step: int, batch_size: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed + step)
        return torch.randn(batch_size, 3, 2, 8, 8, generator=generator)


def job(
    micro_batch: int | None = None, checkpointing: bool = False, **training: object
) -> RoundJob:
    return RoundJob(
        model=MODEL,
        diffusion=DiffusionConfig(),
        training=TrainingConfig.model_validate(
            {"engine": "torch", "local_steps": 3, "batch_size": BATCH} | training
        ),
        weights=weights_of(network()),
        compute=ComputeConfig(
            device="cpu",
            threads=1,
            micro_batch=micro_batch,
            gradient_checkpointing=checkpointing,
        ),
        label=1,
        seed=3,
        first_step=0,
        total_steps=3,
    )


def trained(job: RoundJob) -> dict[str, Tensor]:
    return train_round(job, train=Noise(), heldout=None, hooks=RoundHooks()).weights


def gradient(micro_batch: int) -> tuple[float, Tensor]:
    """Loss and gradient of one step, in float64 so that only a wrong weight shows."""
    model, task = network().double(), job()
    schedule = Schedule.linear(task.diffusion).to(torch.device("cpu"))
    z_BFCHW = Noise().batch(0, 0, BATCH).double()
    parts = losses_of_batch(z_BFCHW, schedule, task, step=0, micro_batch=micro_batch)
    total = 0.0
    for loss_of in parts:
        loss = loss_of(model)
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    assert len(parts) == -(-BATCH // micro_batch)
    return total, torch.cat([each.grad.flatten() for each in model.parameters()])  # type: ignore[union-attr]


def test_the_parts_make_the_gradient_of_the_whole() -> None:
    loss, whole = gradient(BATCH)
    for micro_batch in (1, 2, 3):
        part_loss, parts = gradient(micro_batch)
        assert part_loss == pytest.approx(loss, rel=1e-6)
        assert float((parts - whole).norm() / whole.norm()) < 1e-6


def test_deepspeed_accumulates_to_the_bits_of_torch() -> None:
    for options in ({"learning_rate": 1e-3}, {"learning_rate": 1e-3, "proximal_mu": 0.5}):
        torch_weights = trained(job(2, **options))
        weights = trained(job(2, engine="deepspeed", **options))
        assert all(torch.equal(weights[name], torch_weights[name]) for name in weights)
        at_once = trained(job(BATCH, **options))
        assert any(not torch.equal(weights[name], at_once[name]) for name in weights)
        for name in weights:
            torch.testing.assert_close(weights[name], at_once[name], rtol=1e-3, atol=1e-4)


def test_checkpointed_activations_give_the_same_bits_and_take_less_memory() -> None:
    plain, checkpointed = trained(job()), trained(job(checkpointing=True))
    assert all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    model = network()
    schedule = Schedule.linear(DiffusionConfig())
    loss_of = losses_of_batch(Noise().batch(0, 0, 4), schedule, job(), step=0, micro_batch=4)[0]
    needed = []
    for model.gradient_checkpointing in (False, True):
        needed.append(step_bytes(model, loss_of))
    assert needed[1] < needed[0]


def test_a_step_needs_what_is_written_down_for_it() -> None:
    """x (B, 1024) is there before; forward keeps h and tanh(h), backward makes one of the two."""
    model = nn.Sequential(nn.Linear(8, 1024, bias=False), nn.Tanh())
    x = torch.zeros(100, 8)
    h_bytes = 100 * 1024 * 4
    told = step_bytes(model, lambda model: model(x).sum())
    gradient_bytes = 8 * 1024 * 4
    assert 2 * h_bytes <= told <= 2 * h_bytes + h_bytes + gradient_bytes + 1024
    assert all(each.grad is None for each in model.parameters())


def test_memory_grows_with_the_clips() -> None:
    schedule, task = Schedule.linear(DiffusionConfig()), job()
    one, four = (
        step_bytes(
            network(),
            losses_of_batch(Noise().batch(0, 0, n), schedule, task, step=0, micro_batch=n)[0],
        )
        for n in (1, 4)
    )
    assert 3 * one < four <= 4 * one, "what one clip needs is enough for each of many"


def clips(number: int) -> object:
    return lambda model: model(torch.zeros(number, 8)).sum()


@pytest.mark.parametrize(("free_clips", "expected"), [(100, 6), (6.01, 6), (5.99, 5), (1.01, 1)])
def test_as_many_clips_as_memory_holds(
    free_clips: float,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = nn.Linear(8, 16)
    give(monkeypatch, 3 * 9 * 16 * 4 + free_clips * step_bytes(model, clips(1)))  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        assert fit(model) == expected
    assert ("do not fit" in caplog.text) == (expected < 6)


def test_a_clip_that_does_not_fit_is_refused_with_the_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give(monkeypatch, 100)
    with pytest.raises(MemoryShortError, match=r"one clip needs .* GB.*gradient_checkpointing"):
        fit(nn.Linear(8, 16))


def fit(model: nn.Module) -> int:
    return fitting_micro_batch(model, clips, wanted=6, copies=2, share=0.5)  # type: ignore[arg-type]


def give(monkeypatch: pytest.MonkeyPatch, free_bytes: float) -> None:
    monkeypatch.setattr(fit_module, "available_bytes", lambda: free_bytes / 0.5)


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError(), RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED")]
)
@pytest.mark.parametrize(("limit", "expected"), [(99, 7), (6, 3), (1, 1), (0, 0)])
def test_a_device_that_runs_out_is_asked_for_half(
    limit: int, expected: int, error: Exception
) -> None:
    def loss_of(number: int) -> object:
        def loss(model: nn.Module) -> Tensor:
            if number > limit:
                raise error
            return model(torch.zeros(number, 8)).sum()  # type: ignore[no-any-return]

        return loss

    model = nn.Linear(8, 2)
    found = fit_module._largest_that_runs(model, loss_of, wanted=7, state_bytes=10)  # type: ignore[arg-type]
    assert found == expected
    assert model.weight.grad is None


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_memory_that_runs_out_in_a_step_is_answered_by_smaller_parts_from_it_on(
    engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The first part of the second step fails in its backward pass; the round is whole."""
    real, calls = steps_module.losses_of_batch, []

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, loss: Tensor) -> Tensor:
            return loss.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def losses(*args: object, step: int, micro_batch: int, **more: object) -> object:
        calls.append((step, micro_batch))
        parts = real(*args, step=step, micro_batch=micro_batch, **more)  # type: ignore[arg-type]
        if (step, micro_batch) == (1, 4):
            parts[1:] = [lambda model, part=parts[1]: Full.apply(part(model))]
        return parts

    monkeypatch.setattr(steps_module, "losses_of_batch", losses)
    weights = trained(job(4, engine=engine))
    assert calls == [(0, 4), (1, 4), (1, 2), (2, 2)]
    assert "memory ran out in step 2: from it on, 2 clips at once" in caplog.text
    monkeypatch.undo()
    start, whole = weights_of(network()), trained(job(4, engine=engine))
    moved = max(float((whole[name] - start[name]).abs().max()) for name in start)
    assert max(float((whole[name] - weights[name]).abs().max()) for name in start) < 0.01 * moved


def test_memory_that_one_clip_does_not_find_is_an_error_of_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: object) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(steps_module, "losses_of_batch", lambda *_, **__: [full])
    with pytest.raises(MemoryShortError, match=r"compute\.micro_batch lower"):
        trained(job(4))


def test_copies_are_what_a_process_holds() -> None:
    def copies(processes: int, zero_stage: int, **training: object) -> float:
        config = TrainingConfig.model_validate(training)
        return state_copies(config, processes=processes, zero_stage=zero_stage)

    assert copies(1, 3) == copies(2, 0) == copies(4, 1, engine="torch") == 2
    assert copies(1, 1, proximal_mu=0.1) == 3
    assert copies(4, 1) == (2 + 2) / 4
    assert copies(8, 3, proximal_mu=0.1) == (3 + 2) / 8


def test_a_round_with_little_memory_is_a_round_in_smaller_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def two(*_: object, wanted: int, **__: object) -> int:
        asked.append(wanted)
        return 2

    monkeypatch.setattr("feat_fed.train.local.fitting_micro_batch", two)
    small = trained(job())
    monkeypatch.undo()
    assert asked == [BATCH]
    assert all(torch.equal(small[name], each) for name, each in trained(job(2)).items())


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_bfloat16_is_inside_the_network_alone(engine: str) -> None:
    model = network()
    inner: set[torch.dtype] = set()
    model.patch.register_forward_hook(lambda _, __, out: inner.add(out.dtype))
    training = TrainingConfig.model_validate({"engine": engine, "precision": "bf16"})
    x = Noise().batch(0, 0, 2)

    def loss_of(network: nn.Module) -> Tensor:
        out = network(x, torch.tensor([1, 2]))
        assert out.dtype == torch.float32
        return out.square().mean()  # type: ignore[no-any-return]

    with closing(open_engine(model, training)) as opened:
        assert opened.step([loss_of]).taken
    assert inner == {torch.bfloat16}
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    assert {each.grad.dtype for each in model.parameters() if each.grad is not None} <= {
        torch.float32
    }


def test_bfloat16_rounds_a_round_a_little_and_alike_in_both_engines() -> None:
    exact = trained(job())
    rounded = trained(job(precision="bf16"))
    other = trained(job(precision="bf16", engine="deepspeed"))
    assert all(torch.equal(rounded[name], other[name]) for name in rounded)
    start = weights_of(network())
    moved, apart = (
        sum(float((exact[name] - base[name]).norm()) for name in exact) for base in (start, rounded)
    )
    assert 0 < apart < 0.5 * moved
