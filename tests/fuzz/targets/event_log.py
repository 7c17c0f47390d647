# SPDX-License-Identifier: Apache-2.0
"""Event logs: both formats, beside claims that fit nothing and claims that fit."""

from contextlib import suppress

from tightseal.errors import TightsealError
from tightseal.model.claims import (
    MEASUREMENT_NAMES,
    Claims,
    PlatformIdentity,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal.policy.eventlog import LogFormat, replay_event_log
from tightseal.policy.eventlog.dstack import parse_dstack_log
from tightseal.policy.eventlog.events import LoggedEvent
from tightseal.policy.eventlog.replay import detect_format, replay
from tightseal.policy.eventlog.tcg import parse_tcg_log
from tightseal_sim.intel.eventlog import Event, runtime_event
from tightseal_sim.intel.eventlog_wire import to_ccel, to_dstack_json
from tightseal_sim.intel.td import TdImage

STEPS = (("app-id", b"\1" * 20), ("boot-mr-done", b""), ("key-provider", b"{}"))
BOOT: tuple[Event, ...] = TdImage().boot_log()
FIRST = tuple(runtime_event(name, data) for name, data in STEPS)
SECOND = tuple(runtime_event(name, data, version=2) for name, data in STEPS)


def seeds() -> list[bytes]:
    return [
        to_ccel(BOOT),
        to_ccel(BOOT[2:5], area=1024),
        to_dstack_json((*BOOT, *FIRST)),
        to_dstack_json((*BOOT[:2], *SECOND), stripped=True),
        to_dstack_json(SECOND),
    ]


def claims_of(events: tuple[LoggedEvent, ...]) -> Claims:
    values = dict.fromkeys(MEASUREMENT_NAMES[Tee.TDX], bytes(48))
    for index in range(4):
        digests = (e.digest for e in events if e.register == index)
        values[f"rtmr{index}"] = replay(digests)
    return Claims(
        tee=Tee.TDX,
        trust_domain=TrustDomain(Vendor.SIMULATED, "bb" * 48),
        measurements=values,
        report_data=bytes(64),
        debug=False,
        platform=PlatformIdentity(),
        tcb=None,
    )


OTHER = claims_of((LoggedEvent(0, b"\7" * 48, None),))


def one(data: bytes) -> None:
    with suppress(TightsealError):
        replay_event_log(data, OTHER)
    tcg = detect_format(data) is LogFormat.TCG
    events = parse_tcg_log(data) if tcg else parse_dstack_log(data)
    claims = claims_of(events)
    facts = replay_event_log(data, claims)
    assert not facts.not_replayed
    for index, digests in enumerate(map(facts.digests, facts.registers)):
        assert digests == tuple(e.digest for e in events if e.register == index)
    assert facts.boundary or not facts.identity
