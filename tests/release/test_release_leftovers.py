# SPDX-License-Identifier: Apache-2.0
"""What a release leaves behind in memory and texts: no key."""

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from release_rig import (
    DISK,
    NOW,
    Rig,
    refusal,
    rig,
)

from tightseal.errors import (
    Code,
    KeyReleaseError,
)
from tightseal.model.keypath import KeyRequest
from tightseal.model.secret import Secret
from tightseal.model.settings import (
    LegacySettings,
)
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

CHAIN = LegacySettings(enabled=True)


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"release attacks".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def plain(world: World, tmp_path: Path) -> Iterator[Rig]:
    with rig(world, tmp_path) as found:
        yield found


def secrets_in(trace: TracebackType | None) -> list[str]:
    """Names of locals on the way of an error that still hold key bytes."""
    found = []
    while trace is not None:
        for name, value in trace.tb_frame.f_locals.items():
            held = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(s, Secret) and any(s.reveal()) for s in held):
                found.append(f"{trace.tb_frame.f_code.co_name}.{name}")
        trace = trace.tb_next
    return found


def test_refused_legacy_recipient_leaves_no_key_behind(
    world: World, td: SimTd, tmp_path: Path
) -> None:
    with rig(world, tmp_path, legacy=CHAIN) as ours:
        low_order = td.evidence(bytes(64))
        error = refusal(
            KeyReleaseError, lambda: ours.provider.legacy(low_order, now=NOW)
        )
        assert error.code is Code.RECIPIENT_KEY_INVALID
        assert secrets_in(error.__traceback__) == []


def test_failed_sealing_leaves_no_key_behind(
    plain: Rig, td: SimTd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> bytes:
        raise KeyReleaseError(Code.ENVELOPE_INVALID, "no")

    monkeypatch.setattr("tightseal.envelope.hpke.Recipient.seal", fails)
    _, body = plain.question(td, (*DISK, KeyRequest("swap")))
    error = refusal(KeyReleaseError, lambda: plain.provider.keys(body, now=NOW))
    assert secrets_in(error.__traceback__) == []


def test_no_repr_shows_a_secret(plain: Rig, td: SimTd) -> None:
    exchange, body = plain.question(td)
    released = exchange.open_response(plain.provider.keys(body, now=NOW), now=NOW)
    key = released.get("disk").reveal()
    shown = " ".join(
        repr(value)
        for value in (
            released,
            exchange,
            exchange._recipient,
            plain.attested,
            plain.attested.current(now=NOW),
            plain.provider,
            plain.provider._roots.root(0),
        )
    )
    for secret in (key, plain.seed, plain.platform.sealing_key().reveal()):
        for text in (secret.hex(), repr(secret)[2:-1]):
            assert text not in shown
