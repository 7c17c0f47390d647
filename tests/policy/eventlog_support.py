# SPDX-License-Identifier: Apache-2.0
"""What the tests of event logs share: a booted system, and claims that fit its log."""

from collections.abc import Iterable

from tightseal.model.claims import (
    MEASUREMENT_NAMES,
    Claims,
    PlatformIdentity,
    Tee,
    TrustDomain,
    Vendor,
)
from tightseal_sim.intel.eventlog import Event, replay, runtime_event
from tightseal_sim.intel.td import TdImage

APP_ID = b"\x11" * 20
COMPOSE_HASH = b"\x22" * 32
INSTANCE_ID = b"\x33" * 20
KEY_PROVIDER = b'{"name":"local-sgx","id":"44"}'

BOOT = (
    ("system-preparing", b""),
    ("app-id", APP_ID),
    ("compose-hash", COMPOSE_HASH),
    ("init-script-hash", b"\x55" * 32),
    ("init-script-hash", b"\x66" * 32),
    ("instance-id", INSTANCE_ID),
    ("boot-mr-done", b""),
)
"""What dstack measures into RTMR3 up to the boundary."""

LATER = (("key-provider", KEY_PROVIDER), ("system-ready", b""))


def claims_with(*registers: bytes, tee: Tee = Tee.TDX) -> Claims:
    values = dict.fromkeys(MEASUREMENT_NAMES[tee], bytes(48))
    values.update({f"rtmr{i}": value for i, value in enumerate(registers)})
    return Claims(
        tee=tee,
        trust_domain=TrustDomain(Vendor.SIMULATED, "bb" * 48),
        measurements=values,
        report_data=bytes(64),
        debug=False,
        platform=PlatformIdentity(),
        tcb=None,
    )


def claims_of(events: Iterable[Event]) -> Claims:
    return claims_with(*replay(events))


def runtime(steps: Iterable[tuple[str, bytes]], *, version: int = 1) -> list[Event]:
    return [runtime_event(name, data, version=version) for name, data in steps]


def booted(*, version: int = 1) -> list[Event]:
    """The log of a system that dstack booted, firmware first."""
    return [*TdImage().boot_log(), *runtime((*BOOT, *LATER), version=version)]
