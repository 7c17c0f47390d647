# SPDX-License-Identifier: Apache-2.0
"""The file's format, against a second writer that knows only the documentation."""

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from keyring_support import FakeSlot, Machine, made, opened

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.keyring import MAX_KEYRING_BYTES, decode_keyring, prepare, rotate
from tightseal.keys.keyring.sealed import encode_keyring

ID = b"i" * 32
SLOT = b"s" * 16
KEY = b"K" * 32
ROOTS = {1: b"1" * 32, 3: b"3" * 32}
SALT = b"t" * 16
MACHINE = Machine(b"m" * 32)


def cbor(value: object) -> bytes:
    return cbor2.dumps(value, canonical=True)


def hkdf(parent: bytes, label: str, value: object, salt: bytes | None = None) -> bytes:
    info = cbor([f"tightseal/v1/kdf/{label}", value])
    return HKDF(hashes.SHA256(), length=32, salt=salt, info=info).derive(parent)


def box(plain: bytes, under: bytes, use: object, label: str, place: object) -> bytes:
    salt, nonce = b"\x01" * 32, b"\x02" * 12
    key = hkdf(under, "keyring-seal", use, salt)
    data = cbor([f"tightseal/v1/aead/{label}", place])
    return salt + nonce + AESGCM(key).encrypt(nonce, plain, data)


def generation(number: int, state: str, *dates: int | None) -> dict[str, Any]:
    created, activated, retired, destroyed = dates
    sealed = None
    if destroyed is None:
        place = [ID, number]
        use = ["generation", ID]
        sealed = box(ROOTS[number], KEY, use, "keyring-generation", place)
    return {
        "number": number,
        "state": state,
        "created_at": created,
        "activated_at": activated,
        "retired_at": retired,
        "destroyed_at": destroyed,
        "sealed": sealed,
    }


def slot() -> dict[str, Any]:
    own = hmac.digest(MACHINE.secret, SALT + ID + SLOT + b"gramine", "sha256")
    place = [ID, SLOT, "gramine", {"salt": SALT}, ["gramine"]]
    return {
        "slot_id": SLOT,
        "class": "gramine",
        "label": "here",
        "factors": ["gramine"],
        "parameters": {"salt": SALT},
        "wrapped": box(KEY, own, ["slot", ID, SLOT], "keyring-slot", place),
    }


def parts() -> list[Any]:
    """Header, generations and slots as the documentation has them."""
    header = {
        "keyring_id": ID,
        "trust_domain": "intel",
        "policy_root": bytes(range(32)),
        "minimum_policy_version": 3,
        "slot_classes": ["council", "gramine"],
        "counter": 9,
        "changed_at": 1000,
    }
    generations = [
        generation(1, "retired", 10, 20, 300, None),
        generation(2, "destroyed", 30, None, None, 40),
        generation(3, "current", 300, 300, None, None),
    ]
    return [header, generations, [slot()]]


def file(body: list[Any]) -> bytes:
    header, generations, slots = body
    digests = [
        hashlib.sha256(cbor(["tightseal/v1/hash/keyring-slot", slot])).digest()
        for slot in slots
    ]
    own = hkdf(KEY, "keyring-mac", ID)
    covered = ["tightseal/v1/mac/keyring", [header, generations, digests]]
    mac = hmac.digest(own, cbor(covered), "sha256")
    return cbor(["tightseal-keyring", 1, *body, digests, mac])


def test_a_file_written_by_the_documentation_opens() -> None:
    keyring = opened(file(parts()), FakeSlot(machine=MACHINE)).keyring
    assert keyring.root(1).reveal() == ROOTS[1]
    assert keyring.root(3).reveal() == ROOTS[3]
    assert keyring.header.counter == 9
    assert keyring.seal() == file(parts())


def test_a_file_has_one_encoding() -> None:
    keyring = prepare(rotate(made(FakeSlot()), now=1), now=2)
    data = keyring.seal()
    assert encode_keyring(decode_keyring(data)) == data


Edit = Callable[[list[Any]], object]


def header(**fields: object) -> Edit:
    return lambda body: body[0].update(fields)


def first(**fields: object) -> Edit:
    return lambda body: body[1][0].update(fields)


def last(**fields: object) -> Edit:
    return lambda body: body[1][2].update(fields)


def way(**fields: object) -> Edit:
    return lambda body: body[2][0].update(fields)


DEFECTS: dict[str, Edit] = {
    "unknown field of the header": header(more=1),
    "missing field of the header": lambda body: body[0].pop("counter"),
    "keyring id of 31 bytes": header(keyring_id=b"i" * 31),
    "keyring id as text": header(keyring_id="i" * 32),
    "unknown trust domain": header(trust_domain="arm"),
    "simulated domain without a key id": header(trust_domain="simulated:"),
    "policy root of 33 bytes": header(policy_root=b"r" * 33),
    "negative version": header(minimum_policy_version=-1),
    "version as a boolean": header(minimum_policy_version=True),
    "unknown slot class": header(slot_classes=["gramine", "magic"]),
    "slot classes out of order": header(slot_classes=["gramine", "council"]),
    "slot class twice": header(slot_classes=["gramine", "gramine"]),
    "slot class that is no text": header(slot_classes=[["gramine"]]),
    "branch that is null": header(branch=None),
    "branch that is no map": header(branch=["acme", ID]),
    "branch without a parent": header(branch={"tenant": "acme"}),
    "branch of another id": header(branch={"tenant": "acme", "parent": ID}),
    "branch of no tenant": header(branch={"tenant": "", "parent": ID}),
    "no slot classes": header(slot_classes=[]),
    "slot classes as text": header(slot_classes="gramine"),
    "counter 0": header(counter=0),
    "counter beyond all bounds": header(counter=1 << 60),
    "time before all time": header(changed_at=-1),
    "time beyond all bounds": header(changed_at=1 << 50),
    "changed before a generation": header(changed_at=299),
    "header that is a list": lambda body: body.__setitem__(0, []),
    "no generations": lambda body: body[1].clear(),
    "gap in the numbers": lambda body: body[1].pop(1),
    "number twice": last(number=2),
    "numbers from 0": first(number=0),
    "number as text": first(number="1"),
    "unknown state": first(state="paused"),
    "two current generations": first(state="current", retired_at=None),
    "no current generation": last(state="retired", retired_at=400),
    "pre-active before the newest": first(
        state="pre-active", activated_at=None, retired_at=None
    ),
    "pre-active that was activated": first(state="pre-active", retired_at=None),
    "current that was never activated": last(activated_at=None),
    "current that has retired": last(retired_at=400),
    "retired without a date": first(retired_at=None),
    "retired without bytes": first(sealed=None),
    "retired that was destroyed": first(destroyed_at=400),
    "destroyed with bytes": lambda body: body[1][1].update(sealed=body[1][0]["sealed"]),
    "destroyed without a date": lambda body: body[1][1].update(destroyed_at=None),
    "destroyed in use": lambda body: body[1][1].update(activated_at=35),
    "dates out of order": first(retired_at=15),
    "date as text": first(created_at="10"),
    "sealed root of 91 bytes": first(sealed=b"x" * 91),
    "unknown field of a generation": first(root=b"r" * 32),
    "no slots": lambda body: body[2].clear(),
    "slot id of 15 bytes": way(slot_id=b"s" * 15),
    "slot id twice": lambda body: body[2].append(body[2][0]),
    "unknown class of a slot": way(**{"class": "magic", "factors": ["magic"]}),
    "class not the first factor": way(factors=["council"]),
    "no factors": way(factors=[]),
    "factor twice": way(factors=["gramine", "gramine"]),
    "factors out of order": way(**{"class": "tpm2", "factors": ["tpm2", "gramine"]}),
    "too many factors": way(factors=["gramine", "sgx", "snp", "provider", "council"]),
    "label with a line break": way(label="a\nb"),
    "label of 129 characters": way(label="a" * 129),
    "parameters that are no map": way(parameters=[1]),
    "parameters of 64 KiB and more": way(parameters={"a": b"x" * 65536}),
    "parameters too deep": way(parameters={"a": {"b": {"c": {"d": []}}}}),
    "wrapped key of 93 bytes": way(wrapped=b"x" * 93),
    "unknown field of a slot": way(more=1),
    "slot that is a list": lambda body: body[2].__setitem__(0, []),
}


@pytest.mark.parametrize("defect", DEFECTS.values(), ids=DEFECTS.keys())
def test_a_malformed_keyring_is_refused_before_any_slot_is_asked(defect: Edit) -> None:
    body = parts()
    defect(body)
    slot_key = FakeSlot(machine=MACHINE)
    with pytest.raises(KeyReleaseError) as caught:
        opened(file(body), slot_key)
    assert caught.value.code is Code.KEYRING_MALFORMED
    assert not slot_key.given


def with_member(at: int, value: object) -> bytes:
    members = cbor2.loads(file(parts()))
    members[at] = value
    return cbor(members)


OUTER: dict[str, bytes] = {
    "empty": b"",
    "no CBOR": b"\xff",
    "another magic": with_member(0, "tightseal-policy-bundle"),
    "version 0": with_member(1, 0),
    "version 2": with_member(1, 2),
    "version as a boolean": with_member(1, value=True),
    "MAC of 31 bytes": with_member(5, b"m" * 31),
    "MAC as text": with_member(5, "m" * 32),
    "generations as a map": with_member(3, {}),
    "slots as text": with_member(4, "slots"),
    "too many generations": with_member(3, [None] * 10_001),
    "too many slots": with_member(4, [None] * 65),
    "a member more": cbor([*cbor2.loads(file(parts())), 1]),
    "a member less": cbor(cbor2.loads(file(parts()))[:-1]),
    "a map": cbor({"tightseal-keyring": 1}),
    "trailing byte": file(parts()) + b"\x00",
    "truncated": file(parts())[:-1],
    "an empty array": cbor([]),
    "number not the shortest": file(parts()).replace(
        b"\x71tightseal-keyring\x01", b"\x71tightseal-keyring\x18\x01"
    ),
    "keys out of order": cbor2.dumps(
        [
            "tightseal-keyring",
            1,
            dict(sorted(parts()[0].items(), reverse=True)),
            *parts()[1:],
            b"m" * 32,
        ]
    ),
    "too long": bytes(MAX_KEYRING_BYTES + 1),
}


@pytest.mark.parametrize("data", OUTER.values(), ids=OUTER.keys())
def test_what_is_no_keyring_file_is_refused(data: bytes) -> None:
    with pytest.raises(KeyReleaseError) as caught:
        decode_keyring(data)
    assert caught.value.code is Code.KEYRING_MALFORMED


def test_the_deepest_parameters_are_taken() -> None:
    slot_key = FakeSlot(more={"gramine": {"members": [{"x": 1}]}})
    assert opened(made(slot_key).seal(), slot_key).slot is not None


@pytest.mark.parametrize(
    "more",
    [{"ratio": 0.5}, {"a": [[[[[[[[[1]]]]]]]]]}, {"a": {"b": {"c": {"d": []}}}}],
    ids=["float", "too deep to encode", "too deep"],
)
def test_odd_parameters_are_refused_at_creation(more: dict[str, Any]) -> None:
    with pytest.raises(KeyReleaseError) as caught:
        made(FakeSlot(more=more))
    assert caught.value.code is Code.KEYRING_MALFORMED
