"""Every form: what is lost is bounded and comes later, bytes are few, hostile ones are refused."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from feat_fed.config import FEATConfig, TransferConfig
from feat_fed.errors import FeatFedError, ProtocolError, TrainingError
from feat_fed.federate import decode, encode, form_of, rebase, wire_bytes
from feat_fed.federate.forms import BFloat16, Float16, Form, Int8, TopK
from feat_fed.federate.places import largest, pack_places, places_spec, unpack_places
from feat_fed.model.state import state_schema

Weights = dict[str, Tensor]

LOSSY: dict[str, Form] = {
    "bf16": BFloat16(),
    "fp16": Float16(),
    "int8": Int8(),
    "topk": TopK(0.1),
    "topk by bitmap": TopK(0.5),
}
FORMS: dict[str, Form | None] = {"fp32": None, **LOSSY}
UNIT = {"bf16": 2**-8, "fp16": 2**-11, "int8": 0.5 / 127}
"""What may be lost of a tensor's, or a row's, largest value."""
LARGEST = torch.finfo(torch.float32).max
LEAST = 2.0**-149


def random_weights(seed: int = 0) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "conv": normal(6, 1, 3, 3),
        "linear": normal(12, 20) * torch.logspace(-6, 3, 12)[:, None],
        "bias": normal(40),
        "scalar": normal(),
        "one": normal(1),
        "empty": torch.zeros(0, 4),
        "empty rows": torch.zeros(4, 0),
        "zero": torch.zeros(5, 7),
        "count": torch.tensor(2**40 + 1),
        "flags": torch.tensor([True, False]),
        "half": normal(9).bfloat16(),
    }


def through(weights: Weights, form: Form | None, base: Weights | None = None) -> Weights:
    return decode(encode(weights, form, base=base).buckets, form, weights, base=base)


@pytest.mark.parametrize("kind", FORMS)
def test_what_is_lost_is_small_and_all_but_float32_is_exact(kind: str) -> None:
    weights, base = random_weights(1), random_weights(2)
    back = through(weights, FORMS[kind], base)
    assert list(back) == list(weights)
    for name, tensor in weights.items():
        got = back[name]
        assert (got.dtype, got.shape) == (tensor.dtype, tensor.shape)
        if tensor.dtype != torch.float32 or kind == "fp32":
            assert torch.equal(got, tensor)
        elif kind in UNIT:
            moved = (tensor - base[name]).abs()
            most = moved.flatten(1).amax(1) if moved.ndim > 1 and moved.numel() else moved.sum()
            bound = most.reshape(-1, *[1] * (moved.ndim - 1)) * UNIT[kind]
            rounding = float(tensor.abs().sum()) * 2**-23
            assert bool(((got - tensor).abs() <= bound * 1.001 + rounding).all()), name


@pytest.mark.parametrize("kind", LOSSY)
def test_what_was_sent_and_what_was_left_out_are_the_whole(kind: str) -> None:
    weights = random_weights()
    encoded = encode(weights, LOSSY[kind])
    sent = decode(encoded.buckets, LOSSY[kind], weights)
    assert encoded.residual.keys() == {n for n, t in weights.items() if t.dtype == torch.float32}
    for name, left in encoded.residual.items():
        torch.testing.assert_close(sent[name] + left, weights[name], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", LOSSY)
def test_the_mean_of_many_sendings_is_exact(kind: str) -> None:
    """Their sum differs from the whole by the last residual alone."""
    weights = {name: each for name, each in random_weights().items() if each.dtype == torch.float32}
    total = {name: torch.zeros_like(each) for name, each in weights.items()}
    residual: Weights | None = None
    rounds = 40
    for _ in range(rounds):
        encoded = encode(weights, LOSSY[kind], residual=residual)
        residual = encoded.residual
        for name, each in decode(encoded.buckets, LOSSY[kind], weights).items():
            total[name] += each
    assert residual is not None
    for name, each in weights.items():
        torch.testing.assert_close(
            (total[name] + residual[name]) / rounds, each, rtol=1e-4, atol=1e-9
        )
        # EF-SGD, Lemma 3: with a share d of the squares sent, |e| <= 2 sqrt(1 - d) / d |x|.
        sent = {"topk": 0.1, "topk by bitmap": 0.5}.get(kind, 0.99)
        most = 2 * math.sqrt(1 - sent) / sent * float(each.norm()) if each.numel() else 0.0
        assert float(residual[name].norm()) <= most


def descend(form: Form | None, *, feedback: bool) -> float:
    """Let three sites of different goals descend together; return the distance from their best."""
    generator = torch.Generator().manual_seed(5)
    curvature = torch.logspace(-1, 0, 30)
    goals, point = torch.randn(3, 30, generator=generator), torch.zeros(30)
    residuals: list[Weights | None] = [None, None, None]
    for _ in range(500):
        steps = []
        for site, goal in enumerate(goals):
            step = {"w": -0.1 * curvature * (point - goal)}
            encoded = encode(step, form, residual=residuals[site])
            residuals[site] = encoded.residual if feedback and encoded.residual else None
            steps.append(decode(encoded.buckets, form, step)["w"])
        point = point + torch.stack(steps).mean(0)
    return float((point - goals.mean(0)).norm())


@pytest.mark.parametrize("kind", FORMS)
def test_with_feedback_descent_ends_where_exact_steps_end(kind: str) -> None:
    start = float(torch.randn(3, 30, generator=torch.Generator().manual_seed(5)).mean(0).norm())
    assert descend(FORMS[kind], feedback=True) < (0.1 if kind.startswith("topk") else 0.02) * start


def test_top_k_ends_elsewhere_without_feedback() -> None:
    assert descend(TopK(0.1), feedback=False) > 5 * descend(TopK(0.1), feedback=True)


@pytest.mark.parametrize("kind", FORMS)
def test_the_same_weights_make_the_same_bytes(kind: str) -> None:
    weights, residual = random_weights(), random_weights(7)
    first = encode(weights, FORMS[kind], residual=residual)
    again = encode(dict(reversed(weights.items())), FORMS[kind], residual=residual)
    assert first.buckets == again.buckets
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert encode(weights, FORMS[kind], residual=residual).buckets == first.buckets
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize(
    "values",
    [
        [LARGEST, -LARGEST, 1.0],
        [LARGEST, 1e-30, 0.0],
        [7e4, -7e4, 65519.0],
        [LEAST, -LEAST, 3 * LEAST],
        [1e-40, 1e-44, -1e-39],
        [0.0, -0.0, 0.0],
    ],
)
def test_huge_and_tiny_numbers_stay_finite_and_their_rest_is_kept(
    values: list[float], kind: str
) -> None:
    weights = {"vector": torch.tensor(values), "matrix": torch.tensor([values, values[::-1]])}
    encoded = encode(weights, LOSSY[kind])
    back = decode(encoded.buckets, LOSSY[kind], weights)
    for name, tensor in weights.items():
        assert bool(torch.isfinite(back[name]).all())
        assert bool(torch.isfinite(encoded.residual[name]).all())
        assert bool((encoded.residual[name].abs() <= tensor.abs().max()).all())
        kept = back[name].double() + encoded.residual[name].double()
        torch.testing.assert_close(kept, tensor.double(), rtol=1e-6, atol=0)


def test_small_differences_keep_their_bits_in_fp16() -> None:
    """Plain float16 has no number between 0 and 6e-8."""
    moved = torch.randn(1000) * 1e-8
    back = through({"w": moved}, Float16())["w"]
    assert float((back - moved).abs().max()) < 2**-11 * float(moved.abs().max())


@pytest.mark.parametrize("kind", LOSSY)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_not_sent(kind: str, value: float) -> None:
    with pytest.raises(TrainingError, match="weight w moved"):
        encode({"w": torch.tensor([1.0, value])}, LOSSY[kind])
    with pytest.raises(TrainingError):
        far = {"w": torch.tensor([LARGEST])}
        encode(far, LOSSY[kind], base={"w": -far["w"]})


def feat_s() -> FEATConfig:
    return FEATConfig(in_channels=6)


@pytest.mark.parametrize(
    ("up", "most"), [("bf16", 0.501), ("fp16", 0.501), ("int8", 0.26), ("topk", 0.016)]
)
def test_the_bytes_of_the_real_model(up: str, most: float) -> None:
    schema = state_schema(feat_s())
    assert sum(math.prod(each.shape) for each in schema.values()) > 150e6
    form = form_of(TransferConfig.model_validate({"up": up}), "up")
    headers = 512 * 2 * len(schema)  # more than safetensors takes for names, shapes, offsets
    assert (wire_bytes(schema, form) + headers) / wire_bytes(schema, None) < most


@pytest.mark.parametrize("kind", FORMS)
def test_the_bytes_are_those_that_were_foretold_and_little_more(kind: str) -> None:
    weights = random_weights()
    told = wire_bytes(weights, FORMS[kind])
    sent = sum(map(len, encode(weights, FORMS[kind]).buckets))
    assert told <= sent <= told + 200 * 3 * len(weights)


SMALL = {"a": torch.linspace(-1, 1, 64).view(4, 16), "b": torch.linspace(0, 3, 64)}


def with_part(form: Form, name: str, value: Tensor) -> list[bytes]:
    [bucket] = encode(SMALL, form).buckets
    parts = load(bucket)
    assert name in parts
    return [save({**parts, name: value})]


def placed(*places: int) -> Tensor:
    return torch.tensor(places, dtype=torch.int32)


NANS = torch.full((64,), math.nan)
TWO = TopK(2 / 64)
HALF = TopK(0.5)

HOSTILE: dict[str, tuple[Form, list[bytes], str]] = {
    "nan scale": (Int8(), with_part(Int8(), "scale/a", torch.full((4,), math.nan)), "not finite"),
    "inf scale": (Int8(), with_part(Int8(), "scale/b", torch.tensor(math.inf)), "not finite"),
    "scale below zero": (Int8(), with_part(Int8(), "scale/b", torch.tensor(-1.0)), "below zero"),
    "one scale for all": (Int8(), with_part(Int8(), "scale/a", torch.tensor(1.0)), "shape"),
    "double scale": (Int8(), with_part(Int8(), "scale/b", torch.tensor(1.0).double()), "dtype"),
    "overflow": (Int8(), with_part(Int8(), "scale/b", torch.tensor(LARGEST)), "not finite"),
    "-128": (Int8(), with_part(Int8(), "b", torch.full((64,), -128, dtype=torch.int8)), "range"),
    "floats": (Int8(), with_part(Int8(), "b", torch.zeros(64)), "dtype|at most"),
    "unsigned": (Int8(), with_part(Int8(), "b", torch.zeros(64, dtype=torch.uint8)), "dtype"),
    "nan half": (Float16(), with_part(Float16(), "b", NANS.half()), "finite"),
    "nan bf16": (BFloat16(), with_part(BFloat16(), "b", NANS.bfloat16()), "finite"),
    "fp16 overflow": (Float16(), with_part(Float16(), "scale/b", torch.tensor(LARGEST)), "finite"),
    "place too far": (TWO, with_part(TWO, "places/b", placed(3, 64)), "out of range"),
    "place below zero": (TWO, with_part(TWO, "places/b", placed(-1, 3)), "out of range"),
    "place in between": (TWO, with_part(TWO, "places/b", placed(5, 3)), "no order"),
    "place twice": (TWO, with_part(TWO, "places/b", placed(3, 3)), "repeated"),
    "too many places": (TWO, with_part(TWO, "places/b", placed(1, 2, 3)), "shape"),
    "too many bits": (HALF, with_part(HALF, "places/b", torch.full((8,), 255).byte()), "number"),
    "too few bits": (HALF, with_part(HALF, "places/b", torch.zeros(8).byte()), "number"),
    "another form": (Int8(), encode(SMALL, Float16()).buckets, "dtype|at most"),
    "whole weights": (Int8(), encode(SMALL, None).buckets, "not whole"),
    "a part of it": (Int8(), [save({"a": torch.zeros(4, 16).char()})], "not whole"),
    "parts apart": (
        Int8(),
        [save({k: v}) for k, v in load(encode({"b": SMALL["b"]}, Int8()).buckets[0]).items()],
        "not whole",
    ),
    "twice": (Int8(), encode({"b": SMALL["b"]}, Int8()).buckets * 2, "sent twice"),
    "an unknown one": (Int8(), encode(SMALL | {"c": NANS[:0]}, Int8()).buckets, "2 are unknown"),
    "a missing one": (Int8(), encode({"a": SMALL["a"]}, Int8()).buckets, "1 tensors are missing"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_buckets_are_refused_with_the_reason(kind: str) -> None:
    form, buckets, reason = HOSTILE[kind]
    with pytest.raises(ProtocolError, match=reason):
        decode(buckets, form, SMALL)


def test_a_difference_that_leads_beyond_all_numbers_is_refused() -> None:
    base = {name: torch.full_like(each, LARGEST) for name, each in SMALL.items()}
    huge = {name: torch.full_like(each, LARGEST / 2) for name, each in SMALL.items()}
    with pytest.raises(ProtocolError, match="not finite"):
        decode(encode(huge, Int8()).buckets, Int8(), SMALL, base=base)


@pytest.mark.parametrize("kind", FORMS)
def test_random_damage_is_refused_or_gives_finite_weights(kind: str) -> None:
    rng = random.Random(3)
    [bucket] = encode(SMALL, FORMS[kind]).buckets
    for _ in range(150):
        spoilt = bytearray(bucket)
        for _ in range(rng.randint(1, 4)):
            spoilt[rng.randrange(len(spoilt))] ^= 1 << rng.randrange(8)
        cut = bytes(spoilt)[: rng.choice([len(spoilt), rng.randrange(len(spoilt))])]
        try:
            back = decode([cut], FORMS[kind], SMALL)
        except FeatFedError as error:
            assert isinstance(error, ProtocolError)
        else:
            assert all(bool(torch.isfinite(each).all()) for each in back.values())


def test_an_update_counts_from_what_the_site_received() -> None:
    received = {"w": torch.tensor([1.0, 2.0]), "n": torch.tensor(3)}
    onto = {"w": torch.tensor([1.25, 1.75]), "n": torch.tensor(3)}
    site = {"w": torch.tensor([1.5, 2.0]), "n": torch.tensor(5)}
    moved = rebase(site, received=received, onto=onto)
    assert moved["w"].tolist() == [1.75, 1.75]
    assert int(moved["n"]) == 5


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_places_come_back(data: st.DataObject) -> None:
    size = data.draw(st.integers(0, 300))
    values = torch.tensor(
        data.draw(
            st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, -3.0]), min_size=size, max_size=size)
        )
    )
    count = data.draw(st.integers(0 if not size else 1, size))
    places = largest(values, count)
    magnitudes = values.abs()
    kept, others = (
        magnitudes[places],
        torch.ones(size, dtype=torch.bool).index_fill_(0, places, False),
    )
    assert places.numel() == count
    assert bool((places.diff() > 0).all())
    if count and count < size:
        assert float(kept.min()) >= float(magnitudes[others].max())
    packed = pack_places(places, size=size)
    shape, dtype = places_spec(count=count, size=size)
    assert (tuple(packed.shape), packed.dtype) == (shape, dtype)
    assert packed.nbytes <= min(4 * count, -(-size // 8)) or count == 0
    assert torch.equal(unpack_places(packed, count=count, size=size), places)


def test_of_equal_values_the_first_are_sent() -> None:
    assert largest(torch.tensor([1.0, 2.0, -1.0, 1.0]), 3).tolist() == [0, 1, 2]
