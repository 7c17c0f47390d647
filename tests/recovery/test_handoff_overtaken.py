# SPDX-License-Identifier: Apache-2.0
"""A revocation that comes while what it ends is under way."""

import secrets
from dataclasses import replace
from typing import Any, cast

import pytest
from desk_rig import Asking, Giving, clock, invitation, joined, refusal, revoke

from handoff_scene import Site
from tightseal.errors import Code
from tightseal.model.ports import Recorder
from tightseal.release.handoffs import Handoffs

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def slots_of(giver: Giving) -> set[bytes]:
    return {slot.slot_id for slot in giver.keeper.keyring.slots}


def test_revocation_that_overtakes_a_confirmation(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Between its checks and its change of the keyring."""
    action_id = secrets.token_bytes(16)
    invited = invitation(site, giver, joiner.candidate.parts, action_id=action_id)
    bodies: list[bytes] = []

    def kept(body: bytes) -> bytes:
        bodies.append(body)
        return b"{}"

    direct = giver.direct(on_confirm=kept)
    error = refusal(lambda: joined(joiner, direct, invited))
    assert error.code is Code.REQUEST_MALFORMED
    before = slots_of(giver)
    desk = giver.provider.built().desk
    assert desk is not None

    class Slow:
        """A journal that takes so long that operators come first."""

        def __getattr__(self, name: str) -> object:
            return getattr(desk.recorder, name)

        def record(self, *args: Any, **kwargs: Any) -> bytes:
            revoke(site, giver, (), action_id)
            return desk.recorder.record(*args, **kwargs)

    slow = replace(desk, recorder=cast("Recorder", Slow()))
    error = refusal(lambda: slow.confirm(bodies[0], now=clock()))
    assert error.code is Code.PROVIDER_REVOKED
    assert slots_of(giver) == before


def test_revocation_that_overtakes_a_handoff(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Between the bond and the envelope: the roots made since are kept from it."""
    action_id = secrets.token_bytes(16)
    invited = invitation(site, giver, joiner.candidate.parts, action_id=action_id)
    bodies: list[bytes] = []

    def kept(body: bytes) -> bytes:
        bodies.append(body)
        return b"{}"

    error = refusal(lambda: joined(joiner, giver.direct(on_request=kept), invited))
    assert error.code is Code.REQUEST_MALFORMED
    desk = giver.provider.built().desk
    assert desk is not None

    class Overtaken(Handoffs):
        def send(self, *args: Any, **kwargs: Any) -> None:
            super().send(*args, **kwargs)
            revoke(site, giver, (), action_id)

    slow = replace(desk, handoffs=Overtaken(desk.handoffs._store))
    for _ in range(2):
        error = refusal(lambda: slow.hand_over(bodies[0], now=clock()))
        assert error.code is Code.PROVIDER_REVOKED
    assert giver.keeper.generations().current == 2
