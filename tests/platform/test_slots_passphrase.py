# SPDX-License-Identifier: Apache-2.0
"""Slot ``passphrase``: bounds on its cost, and what is typed."""

import hashlib
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slot_rig import IDS, changed, corrupted, made, refused, without

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.secret import Secret
from tightseal.platform.slots import passphrase
from tightseal.platform.slots.passphrase import Cost, PassphraseSlot

TYPED = "correct horse battery staple"


def slot_of(typed: str | bytes = TYPED, cost: Cost | None = None) -> PassphraseSlot:
    data = typed if isinstance(typed, bytes) else typed.encode()
    return PassphraseSlot(lambda: Secret(data), cost=cost)


@pytest.fixture(scope="module")
def known() -> tuple[dict[str, object], Secret]:
    parameters, key = made(slot_of())
    return dict(parameters), key


@pytest.fixture
def parameters(known: tuple[dict[str, object], Secret]) -> dict[str, object]:
    return known[0]


@pytest.fixture
def no_argon2(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reaches the stretching has spent what was to be refused."""

    def spent(*_args: object, **_kwargs: object) -> None:
        pytest.fail("Argon2id was started")

    monkeypatch.setattr(passphrase, "Argon2id", spent)


def test_opens_after_a_restart(known: tuple[dict[str, object], Secret]) -> None:
    parameters, key = known
    slot = slot_of()
    assert slot.open(parameters, **IDS) == key  # type: ignore[arg-type]
    assert slot.rewrap(parameters) is None  # type: ignore[arg-type]


def test_the_cost_is_stored_and_no_less_than_rfc_9106(
    parameters: dict[str, object],
) -> None:
    stored = (parameters["memory_kib"], parameters["passes"], parameters["lanes"])
    assert stored == (65536, 3, 4)


def test_a_wrong_passphrase(parameters: dict[str, object]) -> None:
    refused(slot_of(TYPED + "r"), parameters, "another passphrase")  # type: ignore[arg-type]


def test_a_passphrase_typed_on_another_keyboard() -> None:
    typed = "Tür zu, es zieht!"
    composed, apart = (unicodedata.normalize(f, typed) for f in ("NFC", "NFD"))
    assert composed != apart
    parameters, key = made(slot_of(composed))
    assert slot_of(apart).open(parameters, **IDS) == key


OUTSIDE = [
    ("memory_kib", 65535),
    ("memory_kib", 0),
    ("memory_kib", 1024 * 1024 + 1),
    ("memory_kib", (1 << 64) - 1),
    ("passes", 2),
    ("passes", 17),
    ("passes", True),
    ("lanes", 0),
    ("lanes", 9),
    ("salt", bytes(15)),
    ("salt", bytes(17)),
    ("salt", "0123456789abcdef"),
    ("form", 2),
    ("check", b""),
]


@pytest.mark.usefixtures("no_argon2")
@pytest.mark.parametrize(("name", "value"), OUTSIDE)
def test_parameters_outside_the_bounds_cost_nothing(
    parameters: dict[str, object], name: str, value: object
) -> None:
    spoiled = changed(parameters, **{name: value})  # type: ignore[arg-type]
    words = "of another form" if name == "form" else name
    refused(slot_of(), spoiled, words)
    refused(slot_of(), without(spoiled, name), "parameters missing")


@pytest.mark.usefixtures("no_argon2")
@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("", "1 to 1024"),
        ("x" * 1025, "1 to 1024"),
        (b"\xff" * 20, "not UTF-8"),
        ("thirteen char", "under 14 characters"),
    ],
)
def test_a_passphrase_that_is_none(typed: str | bytes, words: str) -> None:
    with pytest.raises(KeyReleaseError, match=words) as caught:
        slot_of(typed).create(**IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE
    assert caught.value.__cause__ is None


@pytest.mark.usefixtures("no_argon2")
@pytest.mark.parametrize(
    "cost", [Cost(memory_kib=1024), Cost(passes=1), Cost(memory_kib=1 << 21)]
)
def test_a_cost_outside_the_bounds_is_not_made(cost: Cost) -> None:
    with pytest.raises(KeyReleaseError, match="allowed are"):
        slot_of(cost=cost).create(**IDS)


def test_a_cheaper_slot_is_to_be_made_anew(parameters: dict[str, object]) -> None:
    dearer = slot_of(cost=Cost(memory_kib=128 * 1024))
    reason = dearer.rewrap(parameters)  # type: ignore[arg-type]
    assert reason == "made with 65536 KiB and 3 passes; now 131072 KiB and 3"


def test_no_memory_is_an_unavailable_slot(
    parameters: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise MemoryError

    monkeypatch.setattr(passphrase, "Argon2id", full)
    refused(slot_of(), parameters, "65536 KiB: MemoryError")  # type: ignore[arg-type]


class Quick:
    """Stands for Argon2id, so that a property can be tried often."""

    def __init__(self, **inputs: object) -> None:
        self.inputs = inputs

    def derive(self, typed: bytes) -> bytes:
        return hashlib.sha256(
            repr(sorted(self.inputs.items())).encode() + typed
        ).digest()


@settings(deadline=None)
@given(data=st.data())
def test_no_corrupted_parameters_open(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passphrase, "Argon2id", Quick)
        slot = slot_of()
        stored, key = made(slot)
        assert slot.open(stored, **IDS) == key
        parameters = data.draw(corrupted(stored))
        with pytest.raises(KeyReleaseError) as caught:
            slot.open(parameters, **IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE
