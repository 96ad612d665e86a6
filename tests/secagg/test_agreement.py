"""What two sites agree on is bound to the roster, to their names and to its use."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from feat_fed.errors import AgreementError
from feat_fed.secagg.agreement import agreed_seed, public_of, seal, unseal
from feat_fed.secagg.messages import to_bytes

ROSTER, OTHER_ROSTER = "0" * 64, "1" * 64
ONE, TWO = (X25519PrivateKey.generate().private_bytes_raw() for _ in range(2))
PUBLIC_ONE, PUBLIC_TWO = (to_bytes(public_of(each)) for each in (ONE, TWO))
TEXT = b"s" * 64


def test_two_sites_have_one_seed_and_another_in_another_round_or_with_other_names() -> None:
    seed = agreed_seed(ONE, PUBLIC_TWO, ROSTER, ("a", "b"))
    assert seed == agreed_seed(TWO, PUBLIC_ONE, ROSTER, ("b", "a"))
    others = (
        agreed_seed(ONE, PUBLIC_TWO, OTHER_ROSTER, ("a", "b")),
        agreed_seed(ONE, PUBLIC_TWO, ROSTER, ("a", "c")),
        agreed_seed(ONE, PUBLIC_ONE, ROSTER, ("a", "b")),
    )
    assert len(seed) == 32 and len({seed, *others}) == 4


def test_what_is_sealed_opens_for_its_receiver_in_its_round_alone() -> None:
    sealed = seal(ONE, PUBLIC_TWO, ROSTER, sender="a", receiver="b", text=TEXT)
    assert unseal(TWO, PUBLIC_ONE, ROSTER, sender="a", receiver="b", sealed=sealed) == TEXT
    for roster, sender, receiver in (
        (OTHER_ROSTER, "a", "b"),
        (ROSTER, "b", "a"),
        (ROSTER, "a", "c"),
        (ROSTER, "c", "b"),
    ):
        with pytest.raises(AgreementError, match=f"shares of {sender} that were altered"):
            unseal(TWO, PUBLIC_ONE, roster, sender=sender, receiver=receiver, sealed=sealed)


def test_a_text_sealed_twice_looks_different() -> None:
    first, second = (
        seal(ONE, PUBLIC_TWO, ROSTER, sender="a", receiver="b", text=TEXT) for _ in range(2)
    )
    assert first != second and len(first) == len(second) == 92


def test_a_key_that_agrees_on_the_same_with_everybody_is_refused() -> None:
    with pytest.raises(AgreementError, match="a and b: a key on which nobody can agree"):
        agreed_seed(ONE, bytes(32), ROSTER, ("a", "b"))
