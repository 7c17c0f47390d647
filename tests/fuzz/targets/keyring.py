# SPDX-License-Identifier: Apache-2.0
"""Keyring files; the first byte says what the rest is.

Most random bytes fail at the MAC, so the rest may also be header, generations and
slots, which then get the right MAC: what a broken writer with the keyring key could
write.
"""

import hashlib
import hmac
import sys
from collections.abc import Callable
from functools import cache
from itertools import count
from pathlib import Path
from unittest.mock import patch

KEY_TESTS = str(Path(__file__).resolve().parents[2] / "keys")
if KEY_TESTS not in sys.path:
    sys.path.insert(0, KEY_TESTS)

from keyring_support import (  # noqa: E402 (a folder of tests, named above)
    NOW,
    TERMS,
    FakePair,
    FakeSlot,
    Machine,
    made,
    opened,
)

from tightseal.keys.keyring import (  # noqa: E402
    Keyring,
    decode_keyring,
    destroy,
    open_with_key,
    prepare,
    rotate,
)
from tightseal.keys.keyring.seal import derive  # noqa: E402
from tightseal.keys.keyring.sealed import encode_keyring  # noqa: E402
from tightseal.model.canonical import Value, decode, encode, labelled  # noqa: E402
from tightseal.model.labels import Label  # noqa: E402
from tightseal.model.slots import SlotClass  # noqa: E402

SLOT = FakeSlot(machine=Machine(b"m" * 32))
PAIR = FakePair(SLOT, FakeSlot(SlotClass.PASSPHRASE, machine=Machine(b"p" * 32)))


def drawn() -> Callable[[int], bytes]:
    """Bytes that are the same each time, so that a seed repeats a run."""
    numbers = count()
    return lambda size: hashlib.shake_128(b"%d" % next(numbers)).digest(size)


@cache
def keyrings() -> tuple[Keyring, ...]:
    with patch("secrets.token_bytes", drawn()):
        first = made(SLOT)
        second = prepare(rotate(first, now=NOW), now=NOW)
        return first, destroy(second, 1, now=NOW), made(SLOT, PAIR)


def body(keyring: Keyring) -> list[Value]:
    found = decode(keyring.seal())
    assert isinstance(found, list)
    return found[2:5]


def seeds() -> list[bytes]:
    whole = [b"\x00" + keyring.seal() for keyring in keyrings()]
    parts = [b"\x01" + encode(body(keyring)) for keyring in keyrings()]
    return whole + parts


def whole(data: bytes) -> None:
    """A file as it comes."""
    assert encode_keyring(decode_keyring(data)) == data
    opened(data, SLOT, PAIR)


def parts(data: bytes) -> None:
    """Header, generations and slots, with a MAC that fits the first keyring's key."""
    value = decode(data)
    if not isinstance(value, list):
        return
    keyring = keyrings()[0]
    own = derive(
        keyring.key, label=Label.KDF_KEYRING_MAC, value=keyring.header.keyring_id
    )
    covered = labelled(Label.KEYRING_MAC, value)
    mac = hmac.digest(own.reveal(), covered, "sha256")
    file = encode(["tightseal-keyring", 1, *value, mac])
    result = open_with_key(file, key=keyring.key, terms=TERMS, anchor=None)
    assert result.keyring.seal() == file


def one(data: bytes) -> None:
    kind = parts if data[:1] == b"\x01" else whole
    kind(data[1:])
