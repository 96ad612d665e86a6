"""Private steps in one process: sums, bounds, noise, and rounds that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from feat_fed.codec import WindowsSource
from feat_fed.config import ClipConfig, ComputeConfig
from feat_fed.diffusion import Schedule
from feat_fed.errors import ConfigError, MemoryShortError
from feat_fed.model import FEAT
from feat_fed.train import (
    MidRound,
    RoundHooks,
    RoundJob,
    RoundResult,
    StepProgress,
    derive_seed,
    open_engine,
    private,
    train_round,
)
from feat_fed.train import fit as fit_module
from feat_fed.train.batches import losses_of_patient
from feat_fed.train.exchange import exchange_in
from feat_fed.train.fit import state_copies
from feat_fed.train.mid_round import job_digest
from feat_fed.train.peers import ALONE
from feat_fed.train.precision import compute_in
from feat_fed.train.private import PrivateSteps, check_private
from private_patients import MODEL, Patients, known_chances, network, private_job

EVERYBODY = ("a", "b", "cc", "d")
SEVERAL = {"clips_per_patient": 2, "draws": 2}
CLASSES = MODEL.model_copy(update={"num_classes": 2})
NEVER = 1e-10


def steps_of(
    job: RoundJob, patients: Patients, model: nn.Module | None = None, engine: Any = None
) -> PrivateSteps:
    assert job.privacy is not None
    model = model or network(job.model)
    return PrivateSteps(job, job.privacy, model, engine, patients, peers=ALONE)


def summed(job: RoundJob, patients: Patients, micro_batch: int = 4, **of_model: Any) -> Tensor:
    """Return the sum of everybody's clipped gradients as one vector."""
    model = shaped(network(job.model), **of_model)
    steps = steps_of(job, patients, model)
    total, _ = steps.clipped_sum(patients.patients, 0, micro_batch=micro_batch)
    return torch.cat([each.flatten() for each in total])


def shaped(
    model: FEAT, *, checkpointing: bool = False, channels_last: bool = False, bf16: bool = False
) -> FEAT:
    model.gradient_checkpointing = checkpointing
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        strides = [each.stride() for each in model.parameters() if each.ndim == 4]
        assert any(each[1] == 1 for each in strides)
    compute_in(model, "bf16" if bf16 else "fp32")
    return model


def in_float64(job: RoundJob, patients: Patients) -> Tensor:
    """Return the same sum by a plain loop over patients and their windows, in float64."""
    assert job.privacy is not None
    model = network(job.model).double()
    weights = list(model.parameters())
    total = torch.zeros(sum(each.numel() for each in weights), dtype=torch.float64)
    for patient in patients.patients:
        seed = derive_seed("patient", job.seed, 0, patient)
        z_WFCHW = patients.windows_of(patient, job.privacy.clips_per_patient, seed).double()
        losses = losses_of_patient(
            z_WFCHW,
            Schedule.linear(job.diffusion),
            job,
            draws=job.privacy.draws,
            seed=seed,
            micro_batch=1,
        )
        assert len(losses) == job.privacy.clips_per_patient * job.privacy.draws
        model.zero_grad()
        for loss_of in losses:
            loss_of(model).backward()  # type: ignore[no-untyped-call]
        gradient = torch.cat([each.grad.flatten() for each in weights if each.grad is not None])
        total += gradient * min(1.0, job.privacy.clip_norm / float(gradient.norm()))
    return total


@pytest.mark.parametrize("clip_norm", [0.01, 3.0, 1e4])
@pytest.mark.parametrize(
    "of_model", [{}, {"checkpointing": True}, {"channels_last": True}], ids=str
)
def test_the_clipped_sum_is_that_of_a_loop_in_float64(
    clip_norm: float, of_model: dict[str, bool]
) -> None:
    """Of gradients that are all clipped, some of them, or none."""
    job = private_job(SEVERAL | {"clip_norm": clip_norm})
    everybody = Patients(EVERYBODY)
    expected = in_float64(job, everybody)
    for micro_batch in (1, 3):
        found = summed(job, everybody, micro_batch, **of_model)
        assert float((found.double() - expected).norm()) < 2e-5 * float(expected.norm())


@given(
    patients=st.lists(
        st.text("abcdef", min_size=1, max_size=6) | st.just("LOST"),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    gone=st.integers(0, 3),
    clip_norm=st.floats(1e-3, 1e2),
    micro_batch=st.integers(1, 4),
    of_model=st.fixed_dictionaries(
        {name: st.booleans() for name in ("checkpointing", "channels_last", "bf16")}
    ),
    label=st.sampled_from([None, 1]),
)
@settings(max_examples=12, deadline=None)
def test_no_patient_moves_the_sum_further_than_the_bound(
    patients: list[str],
    gone: int,
    clip_norm: float,
    micro_batch: int,
    of_model: dict[str, bool],
    label: int | None,
) -> None:
    """Whoever is not there changes no other one's windows, timesteps, noise or class."""
    config = MODEL if label is None else CLASSES
    job = private_job(SEVERAL | {"clip_norm": clip_norm}, config, label=label)
    everybody, gone = Patients(patients), gone % len(patients)
    others = everybody.without(patients[gone])
    both = [summed(job, each, micro_batch, **of_model).double() for each in (everybody, others)]
    moved = float((both[0] - both[1]).norm())
    assert moved <= clip_norm
    assert (moved == 0.0) == (patients[gone] == "LOST")


def taken(job: RoundJob, patients: Patients, engine: str) -> Tensor:
    """Return what an engine takes for the gradient of a step of everybody, times their number.

    AdamW's first moment is a tenth of it.
    """
    training = job.training.model_copy(update={"engine": engine, "gradient_clip": None})
    model = network(job.model)
    with closing(open_engine(model, training)) as opened:
        steps = steps_of(job, patients, model, opened)
        assert steps.begin(0)(2).taken
        moments = opened.optimiser_state()
    flat = [moments[f"exp_avg/{name}"].flatten() for name, _ in model.named_parameters()]
    return 10 * steps._expected * torch.cat(flat)


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_an_engine_takes_the_sum_and_no_patient_moves_it_further(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known_chances(monkeypatch)
    job, everybody = private_job(SEVERAL), Patients(EVERYBODY)
    whole = taken(job, everybody, engine)
    torch.testing.assert_close(whole, summed(job, everybody), atol=1e-6, rtol=1e-5)
    moved = float((whole - taken(job, everybody.without("cc"), engine)).norm())
    assert 0.99 * 0.5 < moved <= 0.5


@pytest.mark.parametrize("engine", ["torch", "deepspeed"])
def test_the_noise_that_an_engine_takes_has_the_claimed_variance(engine: str) -> None:
    """(sigma C)^2 for each weight, in a step that nobody takes part in."""
    job = private_job({"noise_multiplier": 3.0, "clip_norm": 0.2, "sample_rate": 1e-12})
    noise = taken(job, Patients(EVERYBODY), engine).double() / (3.0 * 0.2)
    low, high = stats.chi2.interval(1 - NEVER, noise.numel())
    assert low < float(noise.square().sum()) < high
    assert not torch.equal(noise, taken(job, Patients(EVERYBODY), engine).double() / 0.6)


def run(job: RoundJob, patients: Patients, **hooks: Any) -> RoundResult:
    return train_round(job, train=patients, heldout=None, hooks=RoundHooks(**hooks))


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def with_engine(job: RoundJob, **changes: object) -> RoundJob:
    return replace(job, training=job.training.model_copy(update=changes))


def test_both_engines_give_the_same_bits_and_the_limit_of_the_gradient_has_no_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known_chances(monkeypatch)
    job = private_job(SEVERAL | {"noise_multiplier": 0.1})
    first = run(job, Patients(EVERYBODY))
    assert (first.steps, first.skipped_steps, first.ended_by) == (4, 0, "steps")
    for changes in ({"engine": "deepspeed"}, {"gradient_clip": 1e-6}):
        assert same(run(with_engine(job, **changes), Patients(EVERYBODY)).weights, first.weights)


def test_steps_of_nobody_are_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    known_chances(monkeypatch, lambda _: [])
    seen: list[StepProgress] = []
    for engine in ("torch", "deepspeed"):
        job = with_engine(private_job({"noise_multiplier": 1.0}), engine=engine)
        result = run(job, Patients(EVERYBODY), progress=seen.append)
        assert (result.steps, result.skipped_steps, result.train_loss) == (4, 0, 0.0)
        assert not same(result.weights, dict(job.weights)), "noise moves them all the same"
    assert [each.step for each in seen] == [1, 2, 3, 4] * 2
    assert all(each.clips_per_sec > 0 and each.loss is None for each in seen)


def test_a_patient_who_is_no_number_counts_as_zero(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known_chances(monkeypatch)
    job = private_job(SEVERAL)
    both = {
        name: taken(job, Patients(patients), "torch")
        for name, patients in (("with", (*EVERYBODY, "LOST")), ("without", EVERYBODY))
    }
    torch.testing.assert_close(both["with"], both["without"])
    result = run(job, Patients(["LOST"]))
    assert (result.steps, result.skipped_steps) == (4, 0)
    assert "count as zero: 1" in caplog.text and "LOST" not in caplog.text


def test_the_loss_is_a_mean_over_those_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the gradient is, so that it is unbiased where few take part."""
    job, everybody = private_job({"sample_rate": 0.5}), Patients(EVERYBODY)
    _, everybodys = steps_of(job, everybody).clipped_sum(EVERYBODY, 0, micro_batch=1)
    known_chances(monkeypatch)
    seen: list[StepProgress] = []
    run(job, everybody, progress=seen.append)
    assert seen[0].loss == pytest.approx(everybodys / (0.5 * 4))


def test_memory_holds_one_patients_gradient_beside_the_sum() -> None:
    job = private_job(SEVERAL)
    peaks = []
    for number in (2, 8):
        patients = Patients([f"{each:x}" * 2 for each in range(number)])
        steps, peak = steps_of(job, patients), fit_module._LivePeak()
        with peak:
            steps.clipped_sum(patients.patients, 0, micro_batch=2)
        peaks.append(peak.peak_bytes)
    assert peaks[1] < 1.02 * peaks[0]


def test_too_little_memory_halves_a_patients_windows_and_draws_nobody_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known_chances(monkeypatch)
    job = private_job(SEVERAL)
    whole = run(job, Patients(EVERYBODY))
    drawn: list[int] = []
    known_chances(monkeypatch, lambda number: drawn.append(number) or list(range(number)))  # type: ignore[func-returns-value]
    parts = losses_of_patient

    def short(*arguments: Any, micro_batch: int, **more: Any) -> Any:
        if micro_batch > 2 and len(drawn) == 2:
            raise MemoryError
        return parts(*arguments, micro_batch=micro_batch, **more)

    monkeypatch.setattr(private, "losses_of_patient", short)
    result = run(job, Patients(EVERYBODY))
    assert len(drawn) == 4, "one draw a step"
    for name, weight in result.weights.items():
        torch.testing.assert_close(weight, whole.weights[name])


def test_a_step_that_does_not_fit_is_told_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    job = private_job(SEVERAL)
    plain = state_copies(job.training, processes=2, zero_stage=0)
    assert state_copies(job.training, processes=2, zero_stage=0, private=True) == plain + 2
    weights_bytes = sum(each.nbytes for each in job.weights.values())
    monkeypatch.setattr(fit_module, "available_bytes", lambda: 5 * weights_bytes)
    with pytest.raises(MemoryShortError, match="a step of one clip"):
        run(job, Patients(EVERYBODY))


def test_a_resumed_round_is_the_uninterrupted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same chances; else what is done again has others, and was never seen before."""
    known_chances(monkeypatch)
    job, kept = private_job(SEVERAL | {"noise_multiplier": 0.1}), []

    def keep(make: Callable[[], MidRound]) -> None:
        kept.append(make())

    whole = run(job, Patients(EVERYBODY), keep=keep)
    resumed = run(replace(job, resume=kept[1]), Patients(EVERYBODY))
    assert same(resumed.weights, whole.weights) and resumed.train_loss == whole.train_loss
    monkeypatch.undo()
    assert not same(run(replace(job, resume=kept[1]), Patients(EVERYBODY)).weights, whole.weights)


def test_a_job_with_privacy_is_another_job(tmp_path: Path) -> None:
    job = private_job()
    others = [private_job({"noise_multiplier": 2.0}), private_job({"sample_rate": 0.25})]
    digests = {job_digest(each, weights="0") for each in (job, replace(job, privacy=None), *others)}
    assert len(digests) == 4
    source = WindowsSource(clips=(), flip_signs=None, config=ClipConfig())
    with exchange_in(tmp_path) as exchange:
        for each in (job, replace(job, privacy=None)):
            exchange.write_job(each, train=source, heldout=None)
            assert exchange.read_job()[0].privacy == each.privacy


def test_weights_that_no_process_has_whole_are_refused() -> None:
    job = private_job(training={"engine": "deepspeed"})
    assert job.privacy is not None
    sharded = ComputeConfig(device="cpu", devices=2, zero_stage=3)
    with pytest.raises(ConfigError, match=r"compute\.zero_stage is 3.*set compute\.zero_stage: 2"):
        run(replace(job, compute=sharded), Patients(EVERYBODY))
    for engine, processes, stage in (("torch", 2, 3), ("deepspeed", 1, 3), ("deepspeed", 2, 2)):
        training = job.training.model_copy(update={"engine": engine})
        compute = sharded.model_copy(update={"devices": processes, "zero_stage": stage})
        check_private(job.privacy, training, compute)


def test_noise_that_nobody_found_is_refused() -> None:
    job = private_job({"noise_multiplier": None, "epsilon": 3.0})
    with pytest.raises(ConfigError, match=r"privacy\.patient\.noise_multiplier is null"):
        run(job, Patients(EVERYBODY))


def test_timesteps_of_a_patient_cover_the_process_and_are_uniform() -> None:
    """Each window's draws are spread over the process, and so are all of them."""
    told: list[Tensor] = []

    def network(z_t: Tensor, t_B: Tensor, labels: Tensor | None = None) -> Tensor:
        told.append(t_B)
        return torch.cat([z_t, z_t.clamp(-1, 1)], dim=2)

    job = private_job()
    schedule = Schedule.linear(job.diffusion)
    for seed in range(300):
        z_WFCHW = torch.zeros(2, 1, 2, 8, 8)
        for loss in losses_of_patient(z_WFCHW, schedule, job, draws=3, seed=seed, micro_batch=4):
            loss(network)  # type: ignore[arg-type]
    t_SK = torch.cat(told).view(300, 6)
    for own, gap in ((slice(0, 6), 1000 / 6), (slice(0, 3), 1000 / 3), (slice(3, 6), 1000 / 3)):
        ordered = t_SK[:, own].sort(dim=1).values
        gaps = torch.cat([ordered, ordered[:, :1] + 1000], dim=1).diff(dim=1)
        assert float((gaps - gap).abs().max()) < 1, "of all and of each window, and round the end"
    for place in range(6):
        assert stats.kstest(t_SK[:, place].numpy() / 1000, "uniform").pvalue > NEVER


def test_a_models_weights_of_all_kinds_are_reached() -> None:
    """A weight that no loss depends on gets noise alone, and is no error."""
    job, model = private_job(SEVERAL, CLASSES, label=0), network(CLASSES)
    model.register_parameter("idle", nn.Parameter(torch.ones(3)))
    steps = steps_of(job, Patients(EVERYBODY), model)
    total, _ = steps.clipped_sum(EVERYBODY, 0, micro_batch=4)
    by_name = dict(zip([name for name, _ in model.named_parameters()], total, strict=True))
    assert by_name.pop("idle").tolist() == [0.0, 0.0, 0.0]
    assert all(float(each.abs().max()) > 0 for name, each in by_name.items())
