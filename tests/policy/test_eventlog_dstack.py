# SPDX-License-Identifier: Apache-2.0
"""dstack's JSON: digests that others computed too, strict form, every tampering."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from eventlog_support import BOOT, LATER, booted, claims_of, runtime

from tightseal.errors import Code, EvidenceError
from tightseal.policy.eventlog import replay_event_log
from tightseal.policy.eventlog.dstack import parse_dstack_log, runtime_digest
from tightseal.policy.eventlog.events import MAX_EVENT_DATA_BYTES, MAX_EVENTS
from tightseal.policy.eventlog.replay import ZERO_REGISTER, extend
from tightseal_sim.intel.eventlog import Event, boot_event, runtime_event
from tightseal_sim.intel.eventlog_wire import dstack_entry, to_dstack_json

V1 = (
    "67b4be4efed0893cfa2bb1d35dca209ad8348b4c97f980807bcde8b9a0f26398"
    "dd0923d6eccb5aa2096d98046da8740f"
)
V2 = (
    "baf3bcd15a9ffbd5d96a054080db0d029d44a88cdb7ea9f9ca5953bf7a1d8d91"
    "f9a16c6de05de1034f41295e8cec53dc"
)
ZERO_AND_V1 = (
    "9f1bcb9c4dcada1710bf9612197f4e380a9259241b597f1b834c9b3d9f30ae05"
    "69950a92ca118e9d7697d893ea4b6d56"
)
DEADBEEF = bytes.fromhex("deadbeef")


def entries() -> list[dict[str, Any]]:
    return [dstack_entry(event) for event in booted()]


def as_log(found: object) -> bytes:
    return json.dumps(found).encode()


def refusal(log: bytes) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(log, claims_of(booted()))
    return caught.value


def test_golden_digests() -> None:
    assert runtime_digest("app-id", DEADBEEF, version=1).hex() == V1
    assert runtime_digest("app-id", DEADBEEF, version=2).hex() == V2
    assert extend(ZERO_REGISTER, bytes.fromhex(V1)).hex() == ZERO_AND_V1


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["", "app-id", "A b._/@+=,-|~[x]!", "z" * 128])
def test_both_sides_digest_alike(name: str, version: int) -> None:
    event = runtime_event(name, b"\x00\xff", version=version)
    assert runtime_digest(name, b"\x00\xff", version=version) == event.digest


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("stripped", [False, True])
def test_digests_and_payloads_may_be_left_out(version: int, *, stripped: bool) -> None:
    events = booted(version=version)
    log = to_dstack_json(events, stripped=stripped)
    facts = replay_event_log(log, claims_of(events))
    assert [e.name for e in facts.registers["rtmr3"]] == [n for n, _ in (*BOOT, *LATER)]
    assert facts.digests("rtmr3") == tuple(e.digest for e in events if e.rtmr == 3)
    assert facts.identity["app-id"] == b"\x11" * 20
    separator = facts.registers["rtmr0"][2]
    assert separator.data == (None if stripped else bytes(4))


def test_versions_may_mix() -> None:
    first, second = runtime(BOOT[:3]), runtime(BOOT[3:], version=2)
    facts = replay_event_log(
        to_dstack_json([*first, *second]), claims_of([*first, *second])
    )
    assert facts.identity["instance-id"] == b"\x33" * 20


def test_a_preimage_is_compared() -> None:
    found = entries()
    preimage = b"\x01\0\0\x08:system-preparing:"
    at = next(i for i, e in enumerate(found) if e["event"] == "system-preparing")
    found[at]["preimage"] = preimage.hex()
    assert replay_event_log(as_log(found), claims_of(booted())).boundary
    found[at]["preimage"] = (preimage + b"x").hex()
    assert refusal(as_log(found)).code is Code.EVENT_LOG_DIGEST_MISMATCH


def test_boot_data_counts_only_where_it_was_measured() -> None:
    measured = b"a command line"
    events = [
        boot_event(2, 6, "", measured, logged=measured),
        boot_event(2, 6, "", measured, logged=b"another"),
        boot_event(2, 6, "", measured),
        boot_event(2, 6, "", b""),
    ]
    facts = replay_event_log(to_dstack_json(events), claims_of(events))
    assert [e.data for e in facts.registers["rtmr2"]] == [measured, None, None, b""]
    assert {e.name for e in facts.registers["rtmr2"]} == {None}


def test_the_name_of_a_boot_event_is_read_from_nothing() -> None:
    events = [boot_event(0, 10, "app-id", b"x", logged=b"x"), *booted()]
    found = [dstack_entry(event) for event in events]
    found[0]["event"] = "compose-hash"
    facts = replay_event_log(as_log(found), claims_of(events))
    assert facts.registers["rtmr0"][0].name is None
    assert facts.identity["compose-hash"] == b"\x22" * 32


Edit = Callable[[list[dict[str, Any]]], object]


def first_runtime(found: list[dict[str, Any]]) -> dict[str, Any]:
    return next(e for e in found if e["event"] == "app-id")


def changed(**fields: Any) -> Edit:
    def edit(found: list[dict[str, Any]]) -> object:
        first_runtime(found).update(fields)
        return found

    return edit


def changed_boot(**fields: Any) -> Edit:
    def edit(found: list[dict[str, Any]]) -> object:
        found[0].update(fields)
        return found

    return edit


def without(field: str) -> Edit:
    def edit(found: list[dict[str, Any]]) -> object:
        del first_runtime(found)[field]
        return found

    return edit


DEFECTS: dict[str, tuple[Edit, Code]] = {
    "an_object": (lambda found: {"events": found}, Code.EVENT_LOG_MALFORMED),
    "no_events": (lambda _: [], Code.EVENT_LOG_MALFORMED),
    "nested_array": (lambda found: [found], Code.EVENT_LOG_MALFORMED),
    "not_an_object": (lambda found: [*found, 1], Code.EVENT_LOG_MALFORMED),
    "unknown_field": (changed(extra=1), Code.EVENT_LOG_MALFORMED),
    "nested_field": (changed(event_payload=[[]]), Code.EVENT_LOG_MALFORMED),
    "no_register": (without("imr"), Code.EVENT_LOG_MALFORMED),
    "no_type": (without("event_type"), Code.EVENT_LOG_MALFORMED),
    "no_name": (without("event"), Code.EVENT_LOG_MALFORMED),
    "no_payload": (without("event_payload"), Code.EVENT_LOG_MALFORMED),
    "register_4": (changed(imr=4), Code.EVENT_LOG_MALFORMED),
    "register_negative": (changed(imr=-1), Code.EVENT_LOG_MALFORMED),
    "register_as_text": (changed(imr="3"), Code.EVENT_LOG_MALFORMED),
    "register_as_float": (changed(imr=3.0), Code.EVENT_LOG_MALFORMED),
    "type_over_32_bits": (changed(event_type=1 << 32), Code.EVENT_LOG_MALFORMED),
    "version_3": (changed(version=3), Code.EVENT_LOG_MALFORMED),
    "digest_of_sha256": (changed(digest="11" * 32), Code.EVENT_LOG_MALFORMED),
    "digest_upper_case": (changed(digest="AA" * 48), Code.EVENT_LOG_MALFORMED),
    "payload_upper_case": (changed(event_payload="AA"), Code.EVENT_LOG_MALFORMED),
    "payload_half_a_byte": (changed(event_payload="abc"), Code.EVENT_LOG_MALFORMED),
    "payload_newline": (changed(event_payload="ab\n"), Code.EVENT_LOG_MALFORMED),
    "name_with_colon": (changed(event="app-id:"), Code.EVENT_LOG_MALFORMED),
    "name_with_quote": (changed(event='app"id'), Code.EVENT_LOG_MALFORMED),
    "name_not_ascii": (changed(event="app\u2010id"), Code.EVENT_LOG_MALFORMED),
    "name_too_long": (changed(event="a" * 129), Code.EVENT_LOG_MALFORMED),
    "boot_event_without_digest": (changed_boot(digest=""), Code.EVENT_LOG_MALFORMED),
    "boot_event_with_version": (changed_boot(version=2), Code.EVENT_LOG_MALFORMED),
    "boot_event_with_preimage": (
        changed_boot(preimage="00"),
        Code.EVENT_LOG_MALFORMED,
    ),
    "digest_not_of_its_data": (
        changed(digest="11" * 48),
        Code.EVENT_LOG_DIGEST_MISMATCH,
    ),
    "data_changed_digest_kept": (
        changed(event_payload="12" * 20),
        Code.EVENT_LOG_DIGEST_MISMATCH,
    ),
    "name_changed_digest_kept": (
        changed(event="instance-id"),
        Code.EVENT_LOG_DIGEST_MISMATCH,
    ),
    "version_changed_digest_kept": (
        changed(version=2),
        Code.EVENT_LOG_DIGEST_MISMATCH,
    ),
    "runtime_event_in_rtmr2": (changed(imr=2), Code.EVENT_LOG_MISPLACED),
    "digest_alone_in_rtmr3": (changed(event_type=6), Code.EVENT_LOG_MISPLACED),
    "boot_event_as_runtime_event": (
        changed_boot(event_type=0x08000001),
        Code.EVENT_LOG_MISPLACED,
    ),
    "version_changed_digest_left_out": (
        changed(version=2, digest=""),
        Code.EVENT_LOG_MISMATCH,
    ),
    "data_changed_digest_left_out": (
        changed(event_payload="12" * 20, digest=""),
        Code.EVENT_LOG_MISMATCH,
    ),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_defects_are_refused(name: str) -> None:
    edit, code = DEFECTS[name]
    assert refusal(as_log(edit(entries()))).code is code


GOOD = to_dstack_json(booted())

SPOILED: dict[str, tuple[bytes, Code]] = {
    "empty": (b"", Code.EVENT_LOG_MALFORMED),
    "truncated": (GOOD[:-1], Code.EVENT_LOG_MALFORMED),
    "cut_between_events": (
        GOOD[: GOOD.rindex(b",{")] + b"]",
        Code.EVENT_LOG_MISMATCH,
    ),
    "trailing_bytes": (GOOD + b"[]", Code.EVENT_LOG_MALFORMED),
    "trailing_zero": (GOOD + b"\0", Code.EVENT_LOG_MALFORMED),
    "leading_space": (b" " + GOOD, Code.EVENT_LOG_MALFORMED),
    "byte_order_mark": (b"\xef\xbb\xbf" + GOOD, Code.EVENT_LOG_MALFORMED),
    "utf_16": (GOOD.decode().encode("utf-16"), Code.EVENT_LOG_MALFORMED),
    "not_utf_8": (GOOD.replace(b"app-id", b"app\xffid"), Code.EVENT_LOG_MALFORMED),
    "key_twice": (
        GOOD.replace(b'"imr":3', b'"imr":3,"imr":3'),
        Code.EVENT_LOG_MALFORMED,
    ),
    "key_twice_by_escape": (
        GOOD.replace(b'"imr":3', b'"imr":3,"\\u0069mr":3'),
        Code.EVENT_LOG_MALFORMED,
    ),
    "nan": (GOOD.replace(b'"imr":3', b'"imr":NaN'), Code.EVENT_LOG_MALFORMED),
    "exponent": (GOOD.replace(b'"imr":3', b'"imr":3e0'), Code.EVENT_LOG_MALFORMED),
    "nested_arrays": (b"[" * 100_000, Code.EVENT_LOG_MALFORMED),
    "nested_objects": (
        b'[{"imr":' * (MAX_EVENTS - 1),
        Code.EVENT_LOG_MALFORMED,
    ),
    "count_bomb": (b"[" + b"{}," * MAX_EVENTS + b"{}]", Code.EVENT_LOG_TOO_LARGE),
    "payload_too_long": (
        GOOD.replace(
            b'"event_payload":""',
            b'"event_payload":"' + b"00" * (MAX_EVENT_DATA_BYTES + 1) + b'"',
            1,
        ),
        Code.EVENT_LOG_MALFORMED,
    ),
    "too_large": (GOOD + b" " * (1 << 22), Code.EVENT_LOG_TOO_LARGE),
    "gzip_wrapped": (b"ELGZv1" + GOOD, Code.EVENT_LOG_MALFORMED),
}


@pytest.mark.parametrize("name", SPOILED)
def test_spoiled_bytes_are_refused(name: str) -> None:
    log, code = SPOILED[name]
    assert refusal(log).code is code


def test_space_between_values_is_json() -> None:
    log = json.dumps(entries(), indent=1).encode() + b"\n"
    assert replay_event_log(log, claims_of(booted())).boundary


def test_as_many_events_as_allowed_are_read() -> None:
    event = boot_event(0, 4, "", b"x", logged=b"x")
    assert len(parse_dstack_log(to_dstack_json([event] * MAX_EVENTS))) == MAX_EVENTS
    with pytest.raises(EvidenceError) as caught:
        parse_dstack_log(to_dstack_json([event] * (MAX_EVENTS + 1)))
    assert caught.value.code is Code.EVENT_LOG_TOO_LARGE


def test_a_colon_moved_between_name_and_payload_is_refused() -> None:
    """Version 1 has no lengths: both events below have one digest."""
    honest = runtime([("compose-hash", b"a:b")])
    [forged] = [replace(honest[0], name="compose-hash:a", payload=b"b")]
    joined = b"\x01\0\0\x08:compose-hash:a:b"
    assert honest[0].digest == hashlib.sha384(joined).digest()
    assert replay_event_log(to_dstack_json(honest), claims_of(honest)).registers
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(to_dstack_json([forged]), claims_of(honest))
    assert caught.value.code is Code.EVENT_LOG_MALFORMED


def hidden(events: list[Event], *names: str) -> list[Event]:
    """Those events with their digests alone, as if firmware had measured them."""
    return [
        replace(e, event_type=6, name="", payload=b"") if e.name in names else e
        for e in events
    ]


def test_the_true_boundary_cannot_be_hidden_behind_a_bare_digest() -> None:
    """What a workload measured after the boundary must not move before another one."""
    events = runtime(
        [*BOOT, ("compose-hash", b"\x99" * 32), ("boot-mr-done", b"")],
    )
    true_first = next(i for i, e in enumerate(events) if e.name == "compose-hash")
    true_end = next(i for i, e in enumerate(events) if e.name == "boot-mr-done")
    forged = [
        *hidden(events[: true_first + 1], "compose-hash"),
        *events[true_first + 1 : true_end],
        *hidden(events[true_end : true_end + 1], "boot-mr-done"),
        *events[true_end + 1 :],
    ]
    assert [e.digest for e in forged] == [e.digest for e in events]
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(to_dstack_json(forged), claims_of(events))
    assert caught.value.code is Code.EVENT_LOG_MISPLACED
