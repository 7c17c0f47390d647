# SPDX-License-Identifier: Apache-2.0
"""Records of wrapped keys: names, form, and what a hostile store makes of them."""

import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from wrapped_support import (
    NOW,
    TAG,
    Roots,
    get,
    held,
    make,
    name_of,
    new_store,
    overwrite,
    path_of,
    refusal,
)

from tightseal.errors import Code, TightsealError
from tightseal.model.canonical import decode, encode
from tightseal.model.claims import Tee
from tightseal.model.keypath import Authority, KeyPath, KeyType
from tightseal.model.secret import Secret
from tightseal.model.usage import key_record, wrapped_record
from tightseal.release.wrapped import KINDS, WrappedKeys, kind_of
from tightseal.release.wrapped_floor import FLOOR_KIND
from tightseal.release.wrapped_record import WrappedRecord

# -- names ------------------------------------------------------------------------


def test_records_of_keys_and_purposes_share_no_names() -> None:
    names = [
        wrapped_record(tenant="a", workload="b", purpose="c", label=""),
        wrapped_record(tenant="a", workload="b", purpose="", label="c"),
        wrapped_record(tenant="a", workload="bc", purpose="", label=""),
        wrapped_record(tenant="ab", workload="", purpose="c", label=""),
        key_record(tenant="a", workload="b", purpose="c"),
    ]
    assert len(set(names)) == len(names)
    assert all(kind_of(name) in KINDS for name in names)


# -- a record of another key ------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        path_of(name="other"),
        path_of("disk2"),
        path_of(label="a"),
        path_of(tenant="other"),
    ],
    ids=["workload", "purpose", "label", "tenant"],
)
def test_a_record_never_opens_as_another_ones(other: KeyPath) -> None:
    store = new_store()
    keys = WrappedKeys(store, Roots())
    make(keys, path_of())
    make(keys, other)
    overwrite(store, path_of(), held(store, other).value)
    error = refusal(lambda: get(keys, path_of()))
    assert error.code is Code.STATE_TAMPERED
    # Nor with the names in it changed to those expected.
    _, _, created_by, sealed = decode(held(store, other).value)  # type: ignore[misc]
    value = encode([1, path_of().as_value(), created_by, sealed])
    overwrite(store, path_of(), value)
    error = refusal(lambda: get(keys, path_of()))
    assert error.code is Code.STATE_TAMPERED
    assert "not sealed" in error.detail


def test_a_key_sealed_for_another_record_does_not_open() -> None:
    path, roots = path_of(), Roots()
    sealed = WrappedRecord.seal(
        Secret(b"k" * 32),
        name="another",
        root=roots.root(1),
        path=path,
        created_by=TAG,
        entropy=bytes,
    )
    assert sealed.open(name="another", root=roots.root(1)).reveal() == b"k" * 32
    error = refusal(lambda: sealed.open(name=name_of(path), root=roots.root(1)))
    assert error.code is Code.STATE_TAMPERED


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"length": 64}, "length 32"),
        ({"key_type": KeyType.P256}, "type raw"),
        ({"trust_domain": "amd"}, "trust domain intel"),
        (
            {"workload": replace(path_of().workload, tee=Tee.SNP)},
            "tee tdx",
        ),
        (
            {
                "workload": replace(
                    path_of().workload, authority=Authority("policy_root", b"3" * 32)
                )
            },
            "authority",
        ),
    ],
    ids=["length", "type", "trust_domain", "tee", "authority"],
)
def test_a_key_does_not_follow_other_terms(changed: dict[str, Any], said: str) -> None:
    keys = WrappedKeys(new_store(), Roots())
    key = make(keys, path_of())
    error = refusal(lambda: get(keys, replace(path_of(), **changed)))
    assert error.code is Code.KEY_TERMS_CHANGED
    assert said in error.detail
    assert get(keys, path_of()) == key


def _edits() -> dict[str, Callable[[list[Any]], Any]]:
    def flip(at: int) -> Callable[[list[Any]], Any]:
        def edit(parts: list[Any]) -> Any:
            data = bytearray(parts[at])
            data[-1] ^= 1
            return [*parts[:at], bytes(data), *parts[at + 1 :]]

        return edit

    def path(**fields: Any) -> Callable[[list[Any]], Any]:
        return lambda parts: [parts[0], {**parts[1], **fields}, *parts[2:]]

    return {
        "form": lambda parts: [2, *parts[1:]],
        "no_list": lambda _: 1,
        "a_part_less": lambda parts: parts[:3],
        "a_part_more": lambda parts: [*parts, b""],
        "request": flip(2),
        "request_shorter": lambda parts: [*parts[:2], parts[2][:-1], parts[3]],
        "request_is_text": lambda parts: [*parts[:2], "t" * 32, parts[3]],
        "ciphertext": flip(3),
        "ciphertext_shorter": lambda parts: [*parts[:3], parts[3][:-1]],
        "ciphertext_longer": lambda parts: [*parts[:3], parts[3] + b"\0"],
        "path_is_text": lambda parts: [parts[0], "path", *parts[2:]],
        "path_with_more": path(more=1),
        "generation": path(generation=2),
        "generation_is_text": path(generation="1"),
        "kdf": path(kdf="hkdf-sha512"),
        "unknown_kdf": path(kdf="md5"),
        "workload_is_null": path(workload=None),
    }


@pytest.mark.parametrize("edit", _edits().values(), ids=_edits())
def test_an_edited_record_opens_nothing(edit: Callable[[list[Any]], Any]) -> None:
    store, roots = new_store(), Roots(2, {1, 2})
    keys = WrappedKeys(store, roots)
    make(keys, path_of())
    parts: Any = decode(held(store, path_of()).value)
    overwrite(store, path_of(), encode(edit(parts)))
    error = refusal(lambda: get(keys, path_of()))
    assert error.code is Code.STATE_TAMPERED


def test_what_is_no_cbor_opens_nothing() -> None:
    store = new_store()
    keys = WrappedKeys(store, Roots())
    make(keys, path_of())
    overwrite(store, path_of(), b"\xff")
    assert refusal(lambda: get(keys, path_of())).code is Code.STATE_TAMPERED


@pytest.mark.parametrize("value", [-1, 1 << 32, True, "3", None])
def test_a_floor_of_another_form_is_refused(value: Any) -> None:
    store = new_store()
    store.create(FLOOR_KIND, "generation", encode(value), now=NOW)
    error = refusal(lambda: make(WrappedKeys(store, Roots()), path_of()))
    assert error.code is Code.STATE_TAMPERED


def test_the_form_of_a_record_is_frozen() -> None:
    """A version that cannot read this has lost every key that was wrapped before."""
    record = WrappedRecord.decode(bytes.fromhex(FROZEN))
    assert record.path == path_of()
    name = name_of(record.path)
    opened = record.open(name=name, root=Roots().root(1)).reveal()
    assert opened == b"frozen key".ljust(32, b".")
    again = WrappedRecord.seal(
        Secret(opened),
        name=name,
        root=Roots().root(1),
        path=path_of(),
        created_by=TAG,
        entropy=lambda n: bytes(range(n)),
    )
    assert again.encode().hex() == FROZEN


FROZEN = (
    "8401aa636b64666b686b64662d736861323536647479706563726177656c6162656c60666c656e"
    "67746818206674656e616e746461636d6567707572706f7365646469736b68776f726b6c6f6164"
    "a66374656563746478646e616d65686461746162617365686964656e74697479656e616d656469"
    "617574686f72697479826b706f6c6963795f726f6f745820222222222222222222222222222222"
    "22222222222222222222222222222222226a61747472696275746573a06c6d6561737572656d65"
    "6e7473a06a67656e65726174696f6e016c74727573745f646f6d61696e65696e74656c6e70726f"
    "746f636f6c5f636c61737362763158207474747474747474747474747474747474747474747474"
    "747474747474747474583c000102030405060708090a0bd4fd7c46156957ca0dfe50a20c91f159"
    "b254014f88fdcd71e56a66d19c2602b42b2ad1bcb8c000c3a137f563beb04f6e"
)


# -- nothing secret is shown ------------------------------------------------------


def test_no_key_in_reprs_and_errors() -> None:
    store, roots = new_store(), Roots()
    secret = bytes(range(100, 132))
    entropy = iter([secret, bytes(12)])
    keys = WrappedKeys(store, roots, entropy=lambda _: next(entropy))
    assert make(keys, path_of()) == secret
    record = WrappedRecord.decode(held(store, path_of()).value)
    shown = [repr(record), repr(keys.open(path_of(), name_of(path_of()), now=NOW))]
    for wrong in (path_of(length=64), path_of("disk2"), path_of(generation=9)):
        roots.rotate()
        try:
            get(WrappedKeys(store, Roots(9, {9})), wrong)
        except TightsealError as e:
            shown += traceback.format_exception(e)
    text = "".join(shown)
    assert "Error" in text
    assert record.sealed.hex() not in text
    for form in (secret.hex(), repr(secret)[2:-1], repr(record.sealed)[2:-1]):
        assert form not in text
