# SPDX-License-Identifier: Apache-2.0
"""What would lose roots: retiring the last copy, replacing one that parted."""

import secrets

import pytest
from desk_rig import (
    Asking,
    Giving,
    clock,
    giving,
    invitation,
    joined,
    next_name,
    refusal,
)

from handoff_scene import Site
from tightseal.errors import Code
from tightseal.keys.keyring import (
    rotate,
)
from tightseal.platform.door import open_platform
from tightseal.release.handoffs import Handoff, HandoffState
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.retire import retire, successors
from tightseal.service.roots import ways_of
from tightseal.service.settings import Settings

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def confirmed_by(giver: Giving, slots: tuple[bytes, ...]) -> None:
    """A handoff in the giver's store that a provider with these slots confirmed."""
    desk = giver.provider.built().desk
    assert desk is not None
    handoff = Handoff(
        state=HandoffState.SENT,
        platform=None,
        transcript_hash=b"t" * 64,
        confirm_key=b"c" * 32,
        joiner=["sgx", b"m" * 32],
        tenant=None,
        slots=(),
        changed_at=clock(),
    )
    name = secrets.token_bytes(16)
    desk.handoffs.send(name, handoff, now=clock())
    desk.handoffs.confirm(
        name, transcript_hash=b"t" * 64, slots=slots, generations=1, now=clock()
    )


def successor_code(settings: Settings) -> Code:
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    return refusal(lambda: successors(settings, platform, now=clock())).code


def test_provider_is_not_its_own_successor(giver: Giving) -> None:
    """In a shared store lies what it confirmed itself when it joined."""
    own = tuple(slot.slot_id for slot in giver.keeper.keyring.slots)
    confirmed_by(giver, own)
    assert successor_code(giver.composed.front.settings) is Code.SUCCESSOR_MISSING


def test_provider_that_retired_is_nobodys_successor(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Its slots still stand in every copy."""
    done = joined(
        joiner, giver.direct(), invitation(site, giver, joiner.candidate.parts)
    )
    settings = giver.composed.front.settings
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    assert successors(settings, platform, now=clock())
    desk = giver.provider.built().desk
    assert desk is not None
    desk.handoffs.withdraw(done.slots, now=clock())
    assert successor_code(settings) is Code.SUCCESSOR_MISSING


def test_slot_of_another_image_that_opens_here_is_no_other_copy(
    site: Site, bundle: bytes
) -> None:
    name = next_name("giver")
    with giving(site, bundle, name, clock=clock) as giver:
        settings = giver.composed.front.settings
        own = tuple(slot.slot_id for slot in giver.keeper.keyring.slots)
        confirmed_by(giver, own[:1])
    kind = settings.host.platform
    platform = open_platform(kind.kind.value, kind.options())
    error = refusal(lambda: retire(settings, platform, now=clock()))
    assert error.code is Code.SUCCESSOR_MISSING
    assert giver.file.exists()


def test_copy_with_other_roots_than_those_handed_over_is_kept(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Both rotated on their own, and each has released keys since."""
    joined(joiner, giver.direct(), invitation(site, giver, joiner.candidate.parts))
    settings, platform = joiner.candidate.settings, joiner.candidate.platform
    own = KeyringKeeper(ways_of(settings, platform))
    own.change(lambda keyring: rotate(keyring, now=clock()))
    giver.keeper.change(lambda keyring: rotate(keyring, now=clock()))
    before = joiner.file.read_bytes()
    again = invitation(site, giver, joiner.candidate.parts)
    error = refusal(lambda: joined(joiner, giver.direct(), again))
    assert error.code is Code.KEYRING_ROLLED_BACK
    assert joiner.file.read_bytes() == before
