import pytest
import torch
from safetensors.torch import save

from feat_fed.errors import ProtocolError
from feat_fed.federate import pack, unpack

WEIGHTS = {
    "b.weight": torch.randn(7, 5),
    "a.weight": torch.randn(3, 4, 2),
    "c.half": torch.randn(6).to(torch.bfloat16),
    "d.count": torch.tensor([3]),
}
SCHEMA = {name: torch.empty_like(each, device="meta") for name, each in WEIGHTS.items()}


@pytest.mark.parametrize("bucket_bytes", [1, 100, 10**9])
def test_weights_come_back_bit_for_bit(bucket_bytes: int) -> None:
    back = unpack(pack(WEIGHTS, bucket_bytes=bucket_bytes), SCHEMA)
    assert back.keys() == WEIGHTS.keys()
    assert all(torch.equal(back[name], each) for name, each in WEIGHTS.items())


def test_buckets_are_as_few_as_their_size_allows_and_deterministic() -> None:
    assert len(pack(WEIGHTS)) == 1
    assert len(pack(WEIGHTS, bucket_bytes=1)) == len(WEIGHTS)
    assert pack(dict(reversed(WEIGHTS.items()))) == pack(WEIGHTS)


def test_a_view_travels_as_what_it_shows() -> None:
    view = torch.arange(12.0).view(3, 4).t()
    assert torch.equal(unpack(pack({"v": view}), {"v": view})["v"], view)


def hostile(**changes: torch.Tensor) -> list[bytes]:
    return [save({**WEIGHTS, **changes})]


def without(name: str) -> list[bytes]:
    return [save({key: each for key, each in WEIGHTS.items() if key != name})]


@pytest.mark.parametrize(
    ("buckets", "reason"),
    [
        (hostile(**{"b.weight": torch.full((7, 5), torch.nan)}), "not finite"),
        (hostile(**{"b.weight": torch.full((7, 5), torch.inf)}), "not finite"),
        (hostile(**{"b.weight": torch.randn(5, 7)}), "another shape"),
        (hostile(**{"b.weight": torch.randn(1)}), "another shape"),
        (hostile(**{"b.weight": torch.randn(7, 5).half()}), "another dtype"),
        (hostile(extra=torch.zeros(1)), "0 tensors are missing and 1 are unknown"),
        (without("a.weight"), "1 tensors are missing"),
        ([], "4 tensors are missing"),
        ([b"garbage"], "not a safetensors file"),
        ([b"\xff" * 64], "not a safetensors file"),
        (pack({"a.weight": WEIGHTS["a.weight"]}) * 2, "sent twice"),
        (hostile(extra=torch.zeros(10_000)), "at most"),
        ([b"" for _ in range(100)], "at most"),
    ],
)
def test_hostile_buckets_are_refused_with_the_reason(buckets: list[bytes], reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        unpack(buckets, SCHEMA)
