# SPDX-License-Identifier: Apache-2.0
"""The step from what a source gives to a slot's key, by a second implementation."""

import hmac
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.canonical import Value, encode
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotClass
from tightseal.platform.slots.derive import Place, sealed, short, unsealed

PAGE = Path(__file__).parents[2] / "docs" / "slots.md"
MATERIAL = bytes(range(32))
PUBLIC: dict[str, Value] = {
    "form": 1,
    "lanes": 4,
    "memory_kib": 65536,
    "passes": 3,
    "salt": bytes(range(16)),
}
KEYRING_ID, SLOT_ID = bytes([0x11]) * 32, bytes([0x22]) * 16
PLACE = Place(SlotClass.PASSPHRASE, keyring_id=KEYRING_ID, slot_id=SLOT_ID)
KEY = "8638a8f772dbc0da7f923ff59b20555c66e2fc6346bb90150be03b1c3ec88c59"
CHECK = "df843ba55f31372d9db9c154c8e984c8"


def hkdf(material: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256 and no salt, on HMAC alone."""
    key = hmac.digest(bytes(32), material, "sha256")
    out, block = b"", b""
    for i in range(1, 3):
        block = hmac.digest(key, block + info + bytes([i]), "sha256")
        out += block
    return out[:length]


def by_the_text() -> bytes:
    label = "tightseal/v1/kdf/slot-wrapping"
    info = encode([label, [KEYRING_ID, SLOT_ID, "passphrase", PUBLIC]])
    return hkdf(MATERIAL, info, 48)


def test_the_example_of_the_documentation() -> None:
    parameters, key = sealed(Secret(MATERIAL), PUBLIC, PLACE)
    assert key.reveal() + bytes(parameters["check"]) == by_the_text()  # type: ignore[arg-type]
    assert key.reveal().hex() == KEY
    assert bytes(parameters["check"]).hex() == CHECK  # type: ignore[arg-type]
    page = PAGE.read_text()
    assert f"`{KEY}`" in page
    assert f"`{CHECK}`" in page


def test_the_source_is_wiped_and_the_parameters_are_kept() -> None:
    material = Secret(MATERIAL)
    parameters, key = sealed(material, PUBLIC, PLACE)
    assert material == Secret(bytes(32))
    assert {**PUBLIC, "check": parameters["check"]} == parameters
    again = Secret(MATERIAL)
    assert unsealed(again, parameters, PLACE, causes="") == key
    assert again == Secret(bytes(32))


@given(material=st.binary(min_size=16, max_size=64))
def test_another_source_is_another_key(material: bytes) -> None:
    parameters, key = sealed(Secret(MATERIAL), PUBLIC, PLACE)
    if material in (MATERIAL, bytes(len(material))):
        return
    with pytest.raises(KeyReleaseError, match="the key is another one: because"):
        unsealed(Secret(material), parameters, PLACE, causes="because")
    _, other = sealed(Secret(material), PUBLIC, PLACE)
    assert other != key


@pytest.mark.parametrize("slot_class", [c for c in SlotClass if c != "passphrase"])
def test_the_class_enters_the_key(slot_class: SlotClass) -> None:
    other = Place(slot_class, keyring_id=KEYRING_ID, slot_id=SLOT_ID)
    _, one = sealed(Secret(MATERIAL), PUBLIC, PLACE)
    _, two = sealed(Secret(MATERIAL), PUBLIC, other)
    assert one != two


@pytest.mark.parametrize("material", [b"", bytes(15), b"x" * 15, bytes(16), bytes(64)])
def test_a_source_that_gave_no_key(material: bytes) -> None:
    with pytest.raises(KeyReleaseError, match="gave no key") as caught:
        sealed(Secret(material), PUBLIC, PLACE)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


@pytest.mark.parametrize("check", [None, b"", bytes(15), "0123456789abcdef"])
def test_a_check_value_that_is_none(check: Value) -> None:
    parameters = {**PUBLIC, "check": check}
    with pytest.raises(KeyReleaseError, match="check is not 16 bytes"):
        unsealed(Secret(MATERIAL), parameters, PLACE, causes="")


def test_long_values_are_cut_in_messages() -> None:
    assert short(bytes(16)) == "00" * 16
    assert short(bytes(17)) == "00" * 8 + "…"
