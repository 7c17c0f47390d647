# SPDX-License-Identifier: Apache-2.0
"""The file of an operator action: what is read, what is refused, what is signed."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import action_support as support
from tightseal.errors import Code, RequestError
from tightseal.model.action import (
    KEYRING_ACTIONS,
    MAX_SIGNATURES,
    SLOT_ACTIONS,
    Action,
    ActionKind,
    AdoptParameters,
    InviteParameters,
    KeyParameters,
    KeyringParameters,
    KeySource,
    Parameters,
    ProviderParts,
    RevokeParameters,
    Signature,
    SignedAction,
    SlotParameters,
)
from tightseal.model.action_file import (
    MAX_COUNTER,
    encode_action,
    parse_action,
    source_from_value,
)
from tightseal.model.canonical import decode, encode
from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.slots import SlotClass
from tightseal.model.wire_operator import MAX_ACTION_BYTES

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)
PURPOSES = st.text(
    st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=128
)


def values(names: tuple[str, ...]) -> st.SearchStrategy[tuple[tuple[str, bytes], ...]]:
    pairs = st.dictionaries(st.sampled_from(names), st.binary(min_size=1, max_size=64))
    return pairs.map(lambda found: tuple(sorted(found.items())))


AUTHORITIES = st.one_of(
    st.binary(min_size=32, max_size=32).map(lambda v: Authority("policy_root", v)),
    st.binary(min_size=64, max_size=64).map(lambda v: Authority("settings_digest", v)),
)
SOURCES = st.sampled_from(Tee).flatmap(
    lambda tee: st.builds(
        KeySource,
        kdf=st.sampled_from(Kdf),
        tenant=NAMES,
        purpose=PURPOSES,
        tee=st.just(tee),
        attributes=values(MEASUREMENT_NAMES[tee]),
        measurements=values(MEASUREMENT_NAMES[tee]),
        authority=AUTHORITIES,
    )
)
IDS = st.binary(min_size=16, max_size=16)
HASHES = st.binary(min_size=32, max_size=32)
SLOTS = st.builds(
    SlotParameters,
    st.integers(1, MAX_COUNTER),
    slot=st.none() | IDS,
    factors=st.lists(st.sampled_from(SlotClass), max_size=4).map(tuple),
    label=st.text("abc 12'", max_size=9),
    signer=st.booleans(),
)
PARTS = st.builds(
    ProviderParts, st.just("sgx"), HASHES, st.binary(min_size=64, max_size=64)
)
HANDOFFS: dict[ActionKind, st.SearchStrategy[Parameters]] = {
    ActionKind.INVITE_PROVIDER: st.builds(
        InviteParameters,
        PARTS,
        PARTS,
        st.integers(1, MAX_COUNTER),
        st.none() | NAMES,
    ),
    ActionKind.REVOKE_PROVIDER: st.builds(
        RevokeParameters,
        st.integers(1, MAX_COUNTER),
        st.lists(IDS, max_size=3, unique=True).map(lambda ids: tuple(sorted(ids))),
        st.none() | IDS,
    ),
}


def actions() -> st.SearchStrategy[Action]:
    def of(kind: ActionKind) -> st.SearchStrategy[Action]:
        names: dict[str, Any] = {
            "tenant": NAMES,
            "workload": NAMES,
            "purpose": PURPOSES,
        }
        adopts = st.builds(
            AdoptParameters, **names, source=SOURCES, replaces=st.none() | IDS
        )
        about_keys = st.builds(KeyParameters, **names)
        about_keyring = st.builds(
            KeyringParameters,
            st.integers(1, MAX_COUNTER),
            st.none() | st.integers(1, 9),
        )
        parameters: st.SearchStrategy[Parameters] = about_keys
        if kind in KEYRING_ACTIONS:
            parameters = about_keyring
        elif kind in SLOT_ACTIONS:
            parameters = SLOTS
        elif kind in HANDOFFS:
            parameters = HANDOFFS[kind]
        elif kind is ActionKind.ADOPT:
            parameters = adopts
        return st.builds(
            Action,
            kind=st.just(kind),
            policy_root=HASHES,
            keyring_id=HASHES,
            action_id=IDS,
            issued_at=st.integers(0, 1 << 33),
            expires_at=st.integers(0, 1 << 33),
            parameters=parameters,
        )

    return st.sampled_from(ActionKind).flatmap(of)


SIGNATURES = st.lists(
    st.builds(Signature, HASHES, st.binary(min_size=64, max_size=64)), max_size=4
).map(tuple)


@given(actions(), SIGNATURES)
def test_what_is_written_is_read_back(
    action: Action, signatures: tuple[Signature, ...]
) -> None:
    signed = SignedAction(action, signatures)
    data = encode_action(signed)
    assert parse_action(data) == signed
    assert encode_action(parse_action(data)) == data


@given(actions(), actions())
def test_no_two_actions_are_signed_alike(one: Action, other: Action) -> None:
    assert (one.to_sign() == other.to_sign()) == (one == other)


@given(SOURCES)
def test_a_source_is_read_back_from_its_canonical_value(source: KeySource) -> None:
    assert source_from_value(decode(encode(source.as_value()))) == source


def test_the_source_of_a_measured_path_has_the_same_workload_level() -> None:
    binding = WorkloadBinding(
        identity=IdentityKind.MEASURED,
        name=None,
        tee=Tee.TDX,
        attributes=(("xfam", b"x" * 8), ("td_attributes", b"t" * 8)),
        measurements=(("rtmr3", b"3" * 48), ("mrtd", b"m" * 48)),
        authority=Authority("policy_root", b"r" * 32),
    )
    path = KeyPath(
        kdf=Kdf.HKDF_SHA512,
        trust_domain="intel",
        tenant="acme",
        workload=binding,
        protocol_class=ProtocolClass.V1,
        generation=0,
        purpose="disk",
    )
    source = KeySource.of(path)
    assert source.binding().as_value() == binding.as_value()
    assert (source.kdf, source.tenant, source.purpose) == (path.kdf, "acme", "disk")


def test_white_space_and_the_order_of_members_mean_nothing() -> None:
    signed = support.signed(support.action(ActionKind.ADOPT), "alice")
    document = json.loads(encode_action(signed))
    other = json.dumps(dict(reversed(document.items())), separators=(",", ":"))
    assert parse_action(other.encode()) == signed


def test_a_second_signature_of_a_key_takes_the_place_of_the_first() -> None:
    asked = support.action()
    signed = support.signed(asked, "alice", "bob")
    wrong = Signature(support.public("alice"), bytes(64))
    again = signed.signed(wrong).signed(support.signature(asked, "alice"))
    assert [s.key for s in again.signatures] == [
        support.public("bob"),
        support.public("alice"),
    ]
    assert set(again.signatures) == set(signed.signatures)


# -- what is refused --------------------------------------------------------------

Spoil = Callable[[dict[str, Any]], object]


def _set(*path: str, to: object) -> Spoil:
    def spoil(document: dict[str, Any]) -> None:
        inner = document
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = to

    return spoil


def _parameter(*path: str, to: object) -> Spoil:
    return _set("action", "parameters", *path, to=to)


SPOILED: dict[str, Spoil] = {
    "version": _set("version", to=2),
    "version missing": lambda d: d.pop("version"),
    "unknown member": _set("more", to=1),
    "unknown member of the action": _set("action", "more", to=1),
    "kind": _set("action", "kind", to="release-keys"),
    "kind of other parameters": _set("action", "kind", to="reset-usage"),
    "policy root short": _set("action", "policy_root", to="AA"),
    "policy root missing": lambda d: d["action"].pop("policy_root"),
    "keyring of another alphabet": _set("action", "keyring_id", to="+" * 43),
    "action id long": _set("action", "action_id", to="A" * 24),
    "time as text": _set("action", "issued_at", to="1790000000"),
    "time as a fraction": _set("action", "issued_at", to=1.5),
    "time negative": _set("action", "expires_at", to=-1),
    "time beyond all calendars": _set("action", "expires_at", to=1 << 60),
    "time as a truth": _set("action", "issued_at", to=True),
    "tenant in capitals": _parameter("tenant", to="Acme"),
    "tenant with a slash": _parameter("tenant", to="acme/other"),
    "workload empty": _parameter("workload", to=""),
    "workload too long": _parameter("workload", to="w" * 129),
    "purpose with a newline": _parameter("purpose", to="disk\n"),
    "purpose of other letters": _parameter("purpose", to="dïsk"),
    "parameters missing": lambda d: d["action"].pop("parameters"),
    "parameter unknown": _parameter("label", to=""),
    "source missing": lambda d: d["action"]["parameters"].pop("source"),
    "replaces short": _parameter("replaces", to="AA"),
    "source with a name": _parameter("source", "name", to="database"),
    "source of an unknown kdf": _parameter("source", "kdf", to="md5"),
    "source of an unknown tee": _parameter("source", "tee", to="trustzone"),
    "source with an empty value": _parameter("source", "measurements", "mrtd", to=""),
    "source with a long value": _parameter(
        "source", "measurements", "mrtd", to="A" * 88
    ),
    "source with many values": _parameter(
        "source", "measurements", to={f"m{i}": "AA" for i in range(33)}
    ),
    "authority of an unknown kind": _parameter("source", "authority", to=["us", "AA"]),
    "authority of another length": _parameter(
        "source", "authority", to=["policy_root", "A" * 86]
    ),
    "authority alone": _parameter("source", "authority", to=["policy_root"]),
    "signatures missing": lambda d: d.pop("signatures"),
    "too many signatures": lambda d: d["signatures"].extend(
        d["signatures"] * MAX_SIGNATURES
    ),
    "signature short": lambda d: d["signatures"][0].update(signature="AA"),
    "key short": lambda d: d["signatures"][0].update(key="AA"),
    "signature with more": lambda d: d["signatures"][0].update(by="alice"),
}


def refused(data: bytes) -> RequestError:
    with pytest.raises(RequestError) as caught:
        parse_action(data)
    assert caught.value.code is Code.ACTION_MALFORMED
    return caught.value


@pytest.mark.parametrize("defect", SPOILED)
def test_a_file_is_refused(defect: str) -> None:
    good = encode_action(support.signed(support.action(ActionKind.ADOPT), "alice"))
    document = json.loads(good)
    SPOILED[defect](document)
    assert json.dumps(document) != json.dumps(json.loads(good))
    refused(json.dumps(document).encode())


def test_a_member_that_stands_twice_is_refused() -> None:
    good = encode_action(support.signed(support.action(), "alice")).decode()
    twice = good.replace('"tenant": "acme"', '"tenant": "evil", "tenant": "acme"')
    assert parse_action(good.encode()) == parse_action(
        twice.replace('"tenant": "evil", ', "").encode()
    )
    assert "twice" in refused(twice.encode()).detail


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"\xff",
        b"{",
        b"[" * 100_000,
        b"1" * 10_000,
        "{}".encode("utf-16"),
        b'{"version":NaN}',
    ],
    ids=range(9),
)
def test_bytes_that_are_no_action_are_refused(data: bytes) -> None:
    refused(data)


def test_a_file_that_is_too_long_is_refused_unread() -> None:
    good = encode_action(support.signed(support.action(), "alice"))
    padded = good.ljust(MAX_ACTION_BYTES)
    assert parse_action(padded) == parse_action(good)
    assert "at most" in refused(padded + b" ").detail


@pytest.mark.parametrize("value", [None, 1, b"", [], {}, {"kdf": "hkdf-sha256"}])
def test_a_value_that_is_no_source_is_refused(value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        source_from_value(value)
    assert caught.value.code is Code.ACTION_MALFORMED
