# SPDX-License-Identifier: Apache-2.0
import dataclasses
import json
from collections.abc import Iterator
from typing import Any

import pytest
import reference_kdf
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.chain import derive, released_key
from tightseal.model import canonical
from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPart,
    KeyPath,
    KeyType,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.secret import Secret

ROOT = Secret(bytes(range(16)))
ENTRIES = json.loads(reference_kdf.VECTORS.read_text())
PUBLISHED = (
    (112, "03773337ef689c43c9bab9a6c0d9044480a2fed4d5ac5a174b3cbb850b3a5500"),
    (209, "8cc23f3939b6ecb59b34f1805fce1ce9fdaf14104ad2aab9784e02859eca5764"),
)
"""How many entries were published, and the running hash of the last of them."""


def path_from(value: Any) -> KeyPath:
    w = value["workload"]
    binding = WorkloadBinding(
        identity=IdentityKind(w["identity"]),
        name=w["name"],
        tee=Tee(w["tee"]),
        attributes=tuple(w["attributes"].items()),
        measurements=tuple(w["measurements"].items()),
        authority=Authority(*w["authority"]),
    )
    return KeyPath(
        kdf=Kdf(value["kdf"]),
        trust_domain=value["trust_domain"],
        tenant=value["tenant"],
        workload=binding,
        protocol_class=ProtocolClass(value["protocol_class"]),
        generation=value["generation"],
        purpose=value["purpose"],
        label=value["label"],
        length=value["length"],
        key_type=KeyType(value.get("type", "raw")),
    )


PATH = path_from(reference_kdf.path_of())


def bound(path: KeyPath = PATH, **changed: Any) -> KeyPath:
    return dataclasses.replace(
        path, workload=dataclasses.replace(path.workload, **changed)
    )


def test_product_makes_every_published_key() -> None:
    for entry in ENTRIES:
        path = path_from(canonical.decode(bytes.fromhex(entry["path"])))
        part = KeyPart(entry.get("part", "private"))
        key = released_key(Secret(bytes.fromhex(entry["root"])), path, part)
        assert key.reveal().hex() == entry["key"]


def test_reference_makes_every_published_key() -> None:
    for entry in ENTRIES:
        value: Any = canonical.decode(bytes.fromhex(entry["path"]))
        part = entry.get("part", "private")
        key = reference_kdf.released(bytes.fromhex(entry["root"]), value, part)
        assert key.hex() == entry["key"]


def test_published_vectors_are_append_only() -> None:
    before = ""
    for entry in ENTRIES:
        before = reference_kdf.running_hash(
            before,
            entry["root"],
            entry["path"],
            entry["key"],
            entry.get("part", ""),
        )
        assert entry["running_hash"] == before
    for count, running in PUBLISHED:
        assert len(ENTRIES) >= count
        assert ENTRIES[count - 1]["running_hash"] == running


def test_published_vectors_cover_every_choice() -> None:
    values: list[Any] = [canonical.decode(bytes.fromhex(e["path"])) for e in ENTRIES]
    seen = {(v["kdf"], v["workload"]["tee"], v["protocol_class"]) for v in values}
    assert seen == {(k, t, p) for k in Kdf for t in Tee for p in ProtocolClass}
    assert {v["workload"]["identity"] for v in values} == set(IdentityKind)
    assert {(v["kdf"], v["length"]) for v in values} >= {
        (k, n) for k in Kdf for n in (16, 32, 48, 64)
    }
    pairs = {(v.get("type", "raw"), v["kdf"]) for v in values}
    assert pairs == {(t, k) for t in KeyType for k in Kdf}
    parts = {
        (v.get("type", "raw"), e.get("part", "private"))
        for v, e in zip(values, ENTRIES, strict=True)
    }
    assert parts == {(t, p) for t in KeyType for p in KeyPart} - {("raw", "public")}
    assert len({e["key"] for e in ENTRIES}) == len(ENTRIES)


NAMES = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=128
)


@st.composite
def paths(draw: st.DrawFn) -> KeyPath:
    tee = draw(st.sampled_from(Tee))
    chosen = draw(
        st.lists(st.sampled_from(MEASUREMENT_NAMES[tee]), min_size=1, unique=True)
    )
    values = st.binary(min_size=1, max_size=64)
    name = draw(st.none() | NAMES)
    kind = draw(st.sampled_from(KeyType))
    return KeyPath(
        kdf=draw(st.sampled_from(Kdf)),
        trust_domain=draw(st.sampled_from(["intel", "amd", "simulated:" + "0a" * 48])),
        tenant=draw(NAMES),
        workload=WorkloadBinding(
            identity=IdentityKind.MEASURED if name is None else IdentityKind.NAMED,
            name=name,
            tee=tee,
            attributes=tuple(
                (n, draw(values)) for n in ("policy", "xfam")[: draw(st.integers(0, 2))]
            ),
            measurements=tuple((n, draw(values)) for n in chosen),
            authority=Authority(
                "policy_root", draw(st.binary(min_size=32, max_size=32))
            ),
        ),
        protocol_class=draw(st.sampled_from(ProtocolClass)),
        generation=draw(st.integers(0, (1 << 32) - 1)),
        purpose=draw(NAMES),
        label=draw(st.just("") | NAMES),
        length=draw(st.integers(16, 64)) if kind is KeyType.RAW else 32,
        key_type=kind,
    )


@given(st.binary(min_size=16, max_size=64).filter(any), paths())
def test_product_and_reference_agree(root: bytes, path: KeyPath) -> None:
    key = derive(Secret(root), path)
    assert key.reveal() == reference_kdf.derive(root, path.as_value())  # type: ignore[arg-type]
    assert len(key) == path.length


@given(paths(), paths())
def test_different_paths_have_different_keys(one: KeyPath, other: KeyPath) -> None:
    same = one.as_value() == other.as_value()
    assert (derive(ROOT, one) == derive(ROOT, other)) is same


def variations() -> Iterator[tuple[str, KeyPath]]:
    w = PATH.workload
    changes: dict[str, list[Any]] = {
        "kdf": [k for k in Kdf if k is not PATH.kdf],
        "trust_domain": ["amd", "simulated:" + "00" * 48, "simulated:" + "01" * 48],
        "tenant": ["defaul", "default ", "disk"],
        "protocol_class": [ProtocolClass.LEGACY],
        "generation": [1, 2],
        "purpose": ["disk2", "dis", "default"],
        "label": ["disk", " "],
        "length": [16, 31, 33, 64],
        "key_type": [k for k in KeyType if k is not KeyType.RAW],
    }
    for field, values in changes.items():
        for value in values:
            yield field, dataclasses.replace(PATH, **{field: value})
    named = bound(identity=IdentityKind.NAMED, name="web")
    yield "identity", named
    yield "name", bound(named, name="web2")
    yield "tee", bound(tee=Tee.SGX, measurements=(("mrenclave", w.measurements[0][1]),))
    for field in ("attributes", "measurements"):
        pairs = getattr(w, field)
        for i, (name, value) in enumerate(pairs):
            without = pairs[:i] + pairs[i + 1 :]
            flipped = bytes([value[0] ^ 1]) + value[1:]
            fewer: dict[str, Any] = {field: without}
            other: dict[str, Any] = {field: (*without, (name, flipped))}
            yield f"{field} without {name}", bound(**fewer)
            yield f"{field} {name} flipped", bound(**other)
    swapped = (("rtmr0", w.measurements[2][1]), ("rtmr1", w.measurements[1][1]))
    yield (
        "two registers swapped",
        bound(measurements=(w.measurements[0], *swapped, *w.measurements[3:])),
    )
    yield "authority kind", bound(authority=Authority("policy_root", w.authority.value))
    yield (
        "authority value",
        bound(authority=Authority(w.authority.kind, bytes(63) + b"\1")),
    )


def test_every_single_change_changes_the_key() -> None:
    keys = {derive(ROOT, PATH).reveal()[:16]: "unchanged"}
    for what, path in variations():
        start = derive(ROOT, path).reveal()[:16]
        assert start not in keys, (what, keys[start])
        keys[start] = what


def test_order_of_measurements_does_not_matter() -> None:
    reverse = bound(measurements=PATH.workload.measurements[::-1])
    assert derive(ROOT, reverse) == derive(ROOT, PATH)


@given(paths().filter(lambda path: path.key_type is KeyType.RAW))
def test_short_key_is_no_prefix_of_a_longer_one(path: KeyPath) -> None:
    keys = {
        derive(ROOT, dataclasses.replace(path, length=n)).reveal()[:16]
        for n in (16, 32, 48, 64)
    }
    assert len(keys) == 4


@given(paths())
def test_protocol_classes_never_share_a_key(path: KeyPath) -> None:
    v1, legacy = (
        derive(ROOT, dataclasses.replace(path, protocol_class=c)) for c in ProtocolClass
    )
    assert v1 != legacy


MALFORMED = {
    "kdf as text": {"kdf": "hkdf-sha256"},
    "protocol class as text": {"protocol_class": "v1"},
    "unknown trust domain": {"trust_domain": "Intel"},
    "simulated without root": {"trust_domain": "simulated:"},
    "simulated in upper case": {"trust_domain": "simulated:" + "AB" * 48},
    "trust domain with newline": {"trust_domain": "intel\n"},
    "empty tenant": {"tenant": ""},
    "tenant over the limit": {"tenant": "t" * 129},
    "tenant not ASCII": {"tenant": "ten\N{LATIN SMALL LETTER A WITH ACUTE}nt"},
    "tenant with control character": {"tenant": "a\x00b"},
    "tenant as bytes": {"tenant": b"default"},
    "empty purpose": {"purpose": ""},
    "purpose with trailing newline": {"purpose": "disk\n"},
    "label with tab": {"label": "a\tb"},
    "label missing": {"label": None},
    "generation negative": {"generation": -1},
    "generation over 32 bits": {"generation": 1 << 32},
    "generation as bool": {"generation": True},
    "generation as float": {"generation": 1.0},
    "length under 16": {"length": 15},
    "length over 64": {"length": 65},
    "length zero": {"length": 0},
    "length as text": {"length": "32"},
    "type as text": {"key_type": "ed25519"},
    "pair of 16 bytes": {"key_type": KeyType.ED25519, "length": 16},
    "pair of 33 bytes": {"key_type": KeyType.P256, "length": 33},
    "pair of 64 bytes": {"key_type": KeyType.X25519, "length": 64},
}
MALFORMED_BINDING = {
    "identity as text": {"identity": "measured"},
    "tee as text": {"tee": "tdx"},
    "measured with a name": {"name": "web"},
    "measured by nothing": {"measurements": ()},
    "named without name": {"identity": IdentityKind.NAMED},
    "named with empty name": {"identity": IdentityKind.NAMED, "name": ""},
    "measurement twice": {"measurements": (("mrtd", b"1"), ("mrtd", b"2"))},
    "measurement of another TEE": {"measurements": (("mrenclave", bytes(32)),)},
    "measurement empty": {"measurements": (("mrtd", b""),)},
    "measurement too long": {"measurements": (("mrtd", bytes(65)),)},
    "measurement as text": {"measurements": (("mrtd", "00"),)},
    "attribute twice": {"attributes": (("xfam", b"1"), ("xfam", b"1"))},
    "attribute name in upper case": {"attributes": (("XFAM", b"1"),)},
    "too many attributes": {"attributes": tuple((f"a{i}", b"1") for i in range(33))},
    "authority without kind": {"authority": Authority("", bytes(32))},
    "authority of odd length": {"authority": Authority("policy_root", bytes(31))},
    "authority as text": {"authority": Authority("policy_root", "0" * 32)},  # type: ignore[arg-type]
}


@pytest.mark.parametrize("defect", MALFORMED)
def test_malformed_path_is_refused(defect: str) -> None:
    changed: Any = MALFORMED[defect]
    with pytest.raises(KeyReleaseError) as refused:
        derive(ROOT, dataclasses.replace(PATH, **changed))
    assert refused.value.code is Code.KEY_PATH_INVALID


@pytest.mark.parametrize("defect", MALFORMED_BINDING)
def test_malformed_binding_is_refused(defect: str) -> None:
    changed: Any = MALFORMED_BINDING[defect]
    with pytest.raises(KeyReleaseError) as refused:
        derive(ROOT, bound(**changed))
    assert refused.value.code is Code.KEY_PATH_INVALID


@pytest.mark.parametrize("root", [b"", bytes(15), bytes(16), bytes(32)])
def test_short_or_zero_root_is_refused(root: bytes) -> None:
    with pytest.raises(KeyReleaseError) as refused:
        derive(Secret(root), PATH)
    assert refused.value.code is Code.SEALING_KEY_UNAVAILABLE


def test_wiped_root_is_refused() -> None:
    root = Secret(b"r" * 32)
    root.wipe()
    with pytest.raises(KeyReleaseError) as refused:
        derive(root, PATH)
    assert refused.value.code is Code.SEALING_KEY_UNAVAILABLE


def test_root_survives_derivation() -> None:
    root = Secret(b"r" * 32)
    assert derive(root, PATH) == derive(root, PATH)
    assert root.reveal() == b"r" * 32


def test_refusal_says_nothing_of_the_root() -> None:
    root = b"\xabsecret-root-bytes"
    with pytest.raises(KeyReleaseError) as refused:
        derive(Secret(root), dataclasses.replace(PATH, length=99))
    assert "secret" not in str(refused.value)
