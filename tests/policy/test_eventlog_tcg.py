# SPDX-License-Identifier: Apache-2.0
"""The CCEL: read strictly, within bounds, and only what extends an RTMR counts."""

import struct

import pytest
from eventlog_support import booted, claims_of

from tightseal.errors import Code, EvidenceError
from tightseal.policy.eventlog import LogFormat, replay_event_log
from tightseal.policy.eventlog.events import MAX_EVENT_DATA_BYTES, MAX_EVENTS
from tightseal.policy.eventlog.tcg import parse_tcg_log
from tightseal_sim.intel.eventlog import boot_event
from tightseal_sim.intel.eventlog_wire import ccel_event, ccel_header, to_ccel
from tightseal_sim.intel.td import TdImage

EVENTS = TdImage().boot_log()
GOOD = to_ccel(EVENTS)
HEADER = ccel_header()
LAST = ccel_event(3, EVENTS[-1].event_type, EVENTS[-1].digest, EVENTS[-1].payload)
SEPARATOR = boot_event(0, 4, "", bytes(4), logged=bytes(4))
NO_ACTION = ccel_event(1, 3, bytes(48), b"StartupLocality\0\3")
MRTD = ccel_event(0, 4, b"\x77" * 48, b"what the host measured")


def put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def test_a_boot_log_by_hand() -> None:
    """Written out byte by byte, as the specification has it."""
    spec = b"Spec ID Event03\0" + bytes(4) + b"\0\2\0\2" + u32(1)
    spec += b"\x0c\x00\x30\x00" + b"\0"
    header = u32(1) + u32(3) + bytes(20) + u32(33) + spec
    event = u32(2) + u32(4) + u32(1) + b"\x0c\x00" + SEPARATOR.digest + u32(4)
    [read] = parse_tcg_log(header + event + bytes(4) + b"\xff" * 100)
    assert (read.register, read.digest, read.data) == (1, SEPARATOR.digest, bytes(4))
    assert read.name is None
    assert len(spec) == 33


@pytest.mark.parametrize("area", [0, len(GOOD) + 1, 65536])
def test_registers_are_those_of_the_system(area: int) -> None:
    facts = replay_event_log(to_ccel(EVENTS, area=area), claims_of(EVENTS))
    assert facts.format is LogFormat.TCG
    for index, name in enumerate(("rtmr0", "rtmr1", "rtmr2")):
        mine = tuple(e.digest for e in EVENTS if e.rtmr == index)
        assert facts.digests(name) == mine
        assert mine
    assert facts.digests("rtmr3") == ()
    assert facts.not_replayed == ()
    assert not facts.boundary
    assert facts.identity == {}


def test_data_counts_only_where_it_was_measured() -> None:
    facts = replay_event_log(GOOD, claims_of(EVENTS))
    hob, variable, separator = facts.registers["rtmr0"]
    assert hob.data == EVENTS[0].payload
    assert variable.data is None
    assert separator.data == bytes(4)
    assert EVENTS[0].payload in GOOD
    changed = GOOD.replace(EVENTS[0].payload, b"\xee" * len(EVENTS[0].payload))
    again = replay_event_log(changed, claims_of(EVENTS))
    assert again.registers["rtmr0"][0].data is None
    assert again.registers["rtmr0"][0].digest == hob.digest


def test_what_extends_no_rtmr_is_left_out() -> None:
    log = HEADER + NO_ACTION + MRTD + GOOD[len(HEADER) :] + MRTD + NO_ACTION
    assert parse_tcg_log(log) == parse_tcg_log(GOOD)


def test_runtime_events_have_no_names_here() -> None:
    """Nothing in this format says what a digest in RTMR3 was made from."""
    events = booted()
    facts = replay_event_log(to_ccel(events), claims_of(events))
    assert len(facts.registers["rtmr3"]) == len([e for e in events if e.rtmr == 3])
    assert {e.name for e in facts.registers["rtmr3"]} == {None}
    assert {e.data for e in facts.registers["rtmr3"]} == {None}
    assert not facts.boundary
    assert facts.identity == {}


def test_bounds_are_inclusive() -> None:
    assert len(parse_tcg_log(to_ccel([SEPARATOR] * MAX_EVENTS))) == MAX_EVENTS
    longest = ccel_event(1, 4, bytes(48), bytes(MAX_EVENT_DATA_BYTES))
    assert len(parse_tcg_log(HEADER + longest)) == 1


HEAD_AT = {
    "index": 0,
    "type": 4,
    "digest": 8,
    "size": 28,
    "signature": 32,
    "platform": 48,
    "minor": 52,
    "major": 53,
    "uintn": 55,
    "algorithms": 56,
    "algorithm": 60,
    "digest_size": 62,
    "vendor": 64,
}
FIRST = len(HEADER)

MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "header_alone": HEADER,
    "only_padding": HEADER + b"\xff" * 64,
    "header_index": put(GOOD, HEAD_AT["index"], u32(2)),
    "header_type": put(GOOD, HEAD_AT["type"], u32(4)),
    "header_digest": put(GOOD, HEAD_AT["digest"], b"\1"),
    "header_size_short": put(GOOD, HEAD_AT["size"], u32(32)),
    "header_size_long": put(GOOD, HEAD_AT["size"], u32(34)),
    "header_size_bomb": put(GOOD, HEAD_AT["size"], u32(0xFFFFFFFF)),
    "old_signature": put(GOOD, HEAD_AT["signature"], b"Spec ID Event00\0"),
    "platform_class": put(GOOD, HEAD_AT["platform"], u32(2)),
    "minor_version": put(GOOD, HEAD_AT["minor"], b"\1"),
    "major_version": put(GOOD, HEAD_AT["major"], b"\1"),
    "size_of_uintn": put(GOOD, HEAD_AT["uintn"], b"\3"),
    "no_algorithm": put(GOOD, HEAD_AT["algorithms"], u32(0)),
    "algorithm_count_bomb": put(GOOD, HEAD_AT["algorithms"], u32(0xFFFFFFFF)),
    "wrong_algorithm": put(GOOD, HEAD_AT["algorithm"], b"\x0b\x00"),
    "wrong_digest_size": put(GOOD, HEAD_AT["digest_size"], b"\x20\x00"),
    "two_algorithms": ccel_header(((0x0B, 32), (0x0C, 48))) + GOOD[FIRST:],
    "vendor_bytes_missing": put(GOOD, HEAD_AT["vendor"], b"\5"),
    "header_truncated": HEADER[:-1],
    "header_truncated_in_signature": HEADER[:40],
    "register_5": put(GOOD, FIRST, u32(5)),
    "register_bomb": put(GOOD, FIRST, u32(0xFFFFFF00)),
    "no_digest": put(GOOD, FIRST + 8, u32(0)),
    "two_digests": put(GOOD, FIRST + 8, u32(2)),
    "digest_count_bomb": put(GOOD, FIRST + 8, u32(0xFFFFFFFF)),
    "event_algorithm": put(GOOD, FIRST + 12, b"\x0b\x00"),
    "no_action_with_digest": put(GOOD, FIRST + 4, u32(3)),
    "truncated_by_a_byte": GOOD[:-1],
    "truncated_in_event_head": GOOD + LAST[:20],
    "data_longer_than_log": GOOD + LAST[:62] + u32(64) + bytes(63),
    "trailing_byte": GOOD + b"\0",
    "trailing_zeros": GOOD + bytes(66)[:65],
    "event_behind_padding": GOOD + b"\xff" * 8 + LAST,
    "padding_then_zero": GOOD + b"\xff" * 63 + b"\0",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_logs_are_refused(name: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(MALFORMED[name], claims_of(EVENTS))
    assert caught.value.code is Code.EVENT_LOG_MALFORMED


TOO_LARGE: dict[str, bytes] = {
    "event_data": GOOD + LAST[:62] + u32(MAX_EVENT_DATA_BYTES + 1),
    "event_data_bomb": GOOD + LAST[:62] + u32(0xFFFFFFFE),
    "events": to_ccel([SEPARATOR] * (MAX_EVENTS + 1)),
    "ignored_events": HEADER + NO_ACTION * (MAX_EVENTS + 1),
    "log": to_ccel(EVENTS, area=(1 << 22) + 1),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_oversized_logs_are_refused(name: str) -> None:
    with pytest.raises(EvidenceError) as caught:
        replay_event_log(TOO_LARGE[name], claims_of(EVENTS))
    assert caught.value.code is Code.EVENT_LOG_TOO_LARGE


def test_vendor_information_is_stepped_over_and_never_past_the_end() -> None:
    vendor = put(put(HEADER, HEAD_AT["size"], u32(38)), HEAD_AT["vendor"], b"\5")
    log = vendor + b"vendr" + GOOD[FIRST:]
    assert parse_tcg_log(log) == parse_tcg_log(GOOD)
    for size in range(5):
        with pytest.raises(EvidenceError):
            parse_tcg_log(vendor + bytes(size))


def test_no_prefix_is_taken() -> None:
    for size in range(len(GOOD)):
        with pytest.raises(EvidenceError):
            replay_event_log(GOOD[:size], claims_of(EVENTS))
