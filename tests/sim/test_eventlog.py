# SPDX-License-Identifier: Apache-2.0
"""MRTD, RTMRs and the event log that explains them."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.errors import PlatformError
from tightseal_sim.intel.eventlog import replay, runtime_event
from tightseal_sim.intel.td import MAX_EVENT_PAYLOAD, TdImage, td_measurement
from tightseal_sim.world import World


def test_runtime_event_digest_known_answer() -> None:
    # Written out: type as little-endian 08000001, colon, name, colon, payload.
    data = bytes.fromhex("01000008") + b":app-id:" + b"\x11" * 20
    assert runtime_event("app-id", b"\x11" * 20).digest == hashlib.sha384(data).digest()


def test_mrtd_of_one_page_written_out() -> None:
    page = b"firmware".ljust(4096, b"\0")
    stream = b"MEM.PAGE.ADD".ljust(128, b"\0")
    for at in range(0, 4096, 256):
        head = b"MR.EXTEND".ljust(16, b"\0") + at.to_bytes(8, "little")
        stream += head.ljust(128, b"\0") + page[at : at + 256]
    assert td_measurement(b"firmware") == hashlib.sha384(stream).digest()


events = st.lists(
    st.tuples(
        st.sampled_from([2, 3]),
        st.text(st.characters(codec="utf-8"), max_size=12),
        st.binary(max_size=40),
    ),
    max_size=6,
)


@given(steps=events)
def test_the_log_replays_to_the_registers(
    world: World, steps: list[tuple[int, str, bytes]]
) -> None:
    td = world.intel.platform("host").launch_td(TdImage())
    for rtmr, name, payload in steps:
        td.extend(rtmr, (name, payload))
    registers = [td.measurements[f"rtmr{i}"] for i in range(4)]
    assert list(replay(td.event_log)) == registers
    assert len(td.event_log) == len(TdImage().boot_log()) + len(steps)


def test_order_of_events_matters(world: World) -> None:
    platform = world.intel.platform("host")
    one, two = platform.launch_td(TdImage()), platform.launch_td(TdImage())
    for name in ("a", "b"):
        one.extend(3, (name, b""))
    for name in ("b", "a"):
        two.extend(3, (name, b""))
    assert one.measurements["rtmr3"] != two.measurements["rtmr3"]


def test_restart_forgets_runtime_events_and_nothing_else(world: World) -> None:
    image = TdImage(boot_events=(("system-preparing", b""), ("app-id", b"\1" * 20)))
    td = world.intel.platform("host").launch_td(image)
    launched = dict(td.measurements)
    td.extend(3, ("key-provider", b"x"))
    assert td.measurements != launched
    assert td.restart().measurements == launched


def test_software_extends_the_upper_registers_only(world: World) -> None:
    td = world.intel.platform("host").launch_td(TdImage())
    for rtmr in (-1, 0, 1, 4):
        with pytest.raises(PlatformError):
            td.extend(rtmr, ("x", b""))
    with pytest.raises(PlatformError):
        td.extend(3, ("x", bytes(MAX_EVENT_PAYLOAD + 1)))


def test_no_runtime_events_leave_rtmr3_zero(world: World) -> None:
    td = world.intel.platform("host").launch_td(TdImage())
    assert td.measurements["rtmr3"] == bytes(48)
