# SPDX-License-Identifier: Apache-2.0
"""The key that wraps another one: a sibling of what is derived along the same path."""

import dataclasses
from typing import Any

import pytest
import reference_kdf

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.chain import derive, wrapping_key
from tightseal.model.claims import Tee
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    KeyType,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.secret import Secret

ROOT = bytes(range(32))
PATH = KeyPath(
    kdf=Kdf.HKDF_SHA256,
    trust_domain="intel",
    tenant="acme",
    workload=WorkloadBinding(
        identity=IdentityKind.NAMED,
        name="database",
        tee=Tee.TDX,
        attributes=(),
        measurements=(),
        authority=Authority("policy_root", b"\x22" * 32),
    ),
    protocol_class=ProtocolClass.V1,
    generation=3,
    purpose="disk",
)
FROZEN = {
    Kdf.HKDF_SHA256: (
        "998672225c96ff85c3039c041ea5a95e426907c5e1d388dcf3ec0d1181a86bcf"
    ),
    Kdf.HKDF_SHA384: (
        "b87bc0b75d388b5e518aea0dcf1fd5cd32ada8b0f795c9442e4b3505ef8da48a"
    ),
    Kdf.HKDF_SHA512: (
        "793965c0de882b8ac5e883f5675d5dc153b25c142280ba9722e4b3eceba7b9a2"
    ),
    Kdf.KBKDF_HMAC_SHA256: (
        "e8a7297550640067c413ec917ab880071639b5e8093fbe3c5e522f49096bdbbf"
    ),
}
"""A version that makes others opens no key that was wrapped before."""


def reference(root: bytes, path: dict[str, Any]) -> bytes:
    """The chain a second time, down to the purpose, and one step aside."""
    kdf = path["kdf"]
    workload = [path["protocol_class"], path["generation"], path["workload"]]
    node = root
    for level, value in (
        ("trust-domain", [kdf, path["trust_domain"]]),
        ("tenant", path["tenant"]),
        ("workload", workload),
        ("purpose", path["purpose"]),
    ):
        size = reference_kdf.SIZE[reference_kdf.HASH[kdf]]
        node = reference_kdf.step(kdf, node, level, value, size)
    last = [path["type"], path["label"], path["length"]]
    return reference_kdf.step(kdf, node, "wrapped-key", last, 32)


@pytest.mark.parametrize("kdf", list(Kdf))
@pytest.mark.parametrize("label", ["", "volume-1"])
@pytest.mark.parametrize("kind", [KeyType.RAW, KeyType.P256])
def test_a_second_implementation_makes_the_same_keys(
    kdf: Kdf, label: str, kind: KeyType
) -> None:
    path = dataclasses.replace(PATH, kdf=kdf, label=label, key_type=kind)
    plain: Any = path.as_value()
    assert wrapping_key(Secret(ROOT), path).reveal() == reference(ROOT, plain)


@pytest.mark.parametrize("kdf", list(Kdf))
def test_the_formula_is_frozen(kdf: Kdf) -> None:
    path = dataclasses.replace(PATH, kdf=kdf)
    assert wrapping_key(Secret(ROOT), path).reveal().hex() == FROZEN[kdf]


def test_no_two_paths_share_a_wrapping_key() -> None:
    other = dataclasses.replace(PATH.workload, name="other")
    paths = [
        PATH,
        dataclasses.replace(PATH, generation=4),
        dataclasses.replace(PATH, label="a"),
        dataclasses.replace(PATH, purpose="disk2"),
        dataclasses.replace(PATH, length=64),
        dataclasses.replace(PATH, key_type=KeyType.ED25519),
        dataclasses.replace(PATH, tenant="other"),
        dataclasses.replace(PATH, workload=other),
        dataclasses.replace(PATH, trust_domain="amd"),
    ]
    made = {wrapping_key(Secret(ROOT), path).reveal() for path in paths}
    assert len(made) == len(paths)
    derived = {derive(Secret(ROOT), path).reveal() for path in paths}
    assert made.isdisjoint(derived)


def test_who_holds_the_derived_key_cannot_go_on_to_the_wrapping_key() -> None:
    key = derive(Secret(ROOT), PATH).reveal()
    below = reference_kdf.step("hkdf-sha256", key, "wrapped-key", ["raw", "", 32], 32)
    assert wrapping_key(Secret(ROOT), PATH).reveal() != below


def test_a_root_that_was_wiped_wraps_nothing() -> None:
    with pytest.raises(KeyReleaseError) as refused:
        wrapping_key(Secret(bytes(32)), PATH)
    assert refused.value.code is Code.SEALING_KEY_UNAVAILABLE
