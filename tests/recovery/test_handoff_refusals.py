# SPDX-License-Identifier: Apache-2.0
"""What a giver refuses, and what a joiner refuses; each by name, nothing written."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import pytest
from desk_rig import (
    Asking,
    Direct,
    Giving,
    asking,
    changed,
    giving,
    invitation,
    joined,
    refusal,
)

from handoff_scene import NEXT_IMAGE, Site
from tightseal.errors import Code, ProviderError, TightsealError
from tightseal.model.action import ActionKind, KeyParameters, ProviderParts
from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.recovery.join import rehearse
from tightseal_sim.approvers import Approvers
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.scene import Scene

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def clock() -> int:
    return int(time.time())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(scope="module")
def site(scene: Scene) -> Site:
    return Site(scene)


@pytest.fixture(scope="module")
def bundle(site: Site) -> bytes:
    return site.bundle()


@pytest.fixture(scope="module")
def giver(site: Site, bundle: bytes) -> Iterator[Giving]:
    with giving(site, bundle, "giver", clock=clock) as found:
        yield found


_names = iter(f"joiner-{number}" for number in range(1000))


@pytest.fixture
def joiner(site: Site, bundle: bytes) -> Asking:
    return asking(site, bundle, next(_names), clock=clock)


def code_of(asked: Asking, giver: Direct, invited: bytes) -> Code:
    """The refusal; and that it left nothing behind."""
    error = refusal(lambda: joined(asked, giver, invited))
    assert not asked.file.exists()
    return error.code


def test_joins_and_opens_from_disk(site: Site, giver: Giving, joiner: Asking) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    done = joined(joiner, giver.direct(), invited)
    assert not done.confirmed
    assert done.keyring_id == giver.keeper.keyring_id
    assert joiner.file.exists()
    ours = {slot.slot_id for slot in giver.keeper.keyring.slots}
    assert set(done.slots) <= ours


def test_rehearsal_writes_nothing_and_keeps_the_invitation(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    counter = giver.keeper.keyring.header.counter
    steps: list[str] = []
    told = lambda step, _what: steps.append(step)  # noqa: E731
    for _ in range(2):
        rehearse(joiner.joiner, giver.direct(), invited, done=told)
    assert steps[:5] == ["invitation", "giver", "evidence", "handoff", "slots"]
    assert not joiner.file.exists()
    assert giver.keeper.keyring.header.counter == counter
    assert not joined(joiner, giver.direct(), invited).confirmed


# -- the invitation -----------------------------------------------------------------


def test_undersigned_invitation(site: Site, giver: Giving, joiner: Asking) -> None:
    invited = invitation(site, giver, joiner.candidate.parts, signers=1)
    assert code_of(joiner, giver.direct(), invited) is Code.ACTION_UNDERSIGNED
    good = invitation(site, giver, joiner.candidate.parts)
    swapped = giver.direct(on_request=lambda body: changed(body, invitation=invited))
    assert code_of(joiner, swapped, good) is Code.ACTION_UNDERSIGNED


def test_expired_invitation(site: Site, giver: Giving, joiner: Asking) -> None:
    past = clock() - 7200
    invited = invitation(
        site,
        giver,
        joiner.candidate.parts,
        issued_at=past,
        expires_at=past + 3600,
    )
    assert code_of(joiner, giver.direct(), invited) is Code.ACTION_EXPIRED


def test_action_of_another_kind_is_no_invitation(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    other = invitation(
        site,
        giver,
        joiner.candidate.parts,
        kind=ActionKind.RESET_USAGE,
        parameters=KeyParameters("acme", "database", "disk"),
    )
    assert code_of(joiner, giver.direct(), other) is Code.ACTION_NOT_ALLOWED


def test_invitation_is_not_taken_as_an_action(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    error = refusal(lambda: giver.provider.act(invited, now=clock()))
    assert error.code is Code.ACTION_NOT_ALLOWED


@pytest.mark.parametrize("part", ["measurement", "settings_digest"])
def test_invitation_for_another_provider(
    site: Site, giver: Giving, joiner: Asking, part: str
) -> None:
    own: bytes = getattr(joiner.candidate.parts, part)
    parts = replace(joiner.candidate.parts, **{part: b"\x01" * len(own)})
    invited = invitation(site, giver, parts)
    assert code_of(joiner, giver.direct(), invited) is Code.PEER_IDENTITY_MISMATCH


def test_joiner_whose_evidence_measures_something_else(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """It says that it is who was invited; its quote says what it is."""
    other = replace(joiner.candidate.parts, measurement=b"\x01" * 32)
    invited = invitation(site, giver, other)
    joiner.joiner = replace(joiner.joiner, measurement=other.measurement)
    assert code_of(joiner, giver.direct(), invited) is Code.PEER_IDENTITY_MISMATCH


def test_joiner_that_says_it_is_somebody_else(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Its evidence commits to what it says, and that is not what was invited."""
    invited = invitation(site, giver, joiner.candidate.parts)
    parts = replace(joiner.candidate.parts, settings_digest=b"\x01" * 64)
    joiner.joiner = replace(joiner.joiner, settings_digest=parts.settings_digest)
    assert code_of(joiner, giver.direct(), invited) is Code.PEER_IDENTITY_MISMATCH
    own = invitation(site, giver, parts)
    swapped = giver.direct(on_request=lambda body: changed(body, invitation=invited))
    assert code_of(joiner, swapped, own) in {
        Code.PEER_IDENTITY_MISMATCH,
        Code.REPORT_DATA_MISMATCH,
    }


# -- who gives ----------------------------------------------------------------------


def test_genuine_twin_with_its_own_policy_root_asks_to_join(
    scene: Scene, giver: Giving
) -> None:
    """The image is ours; who signs for it is not."""
    twin = Site(scene)
    bundle = twin.bundle()
    asked = asking(twin, bundle, next(_names), clock=clock, image=PROVIDER_ENCLAVE)
    own = invitation(twin, giver, asked.candidate.parts)
    error = refusal(lambda: joined(asked, giver.direct(), own))
    # It cannot even pin us: our quote commits to another root.
    assert error.code is Code.PROVIDER_IDENTITY_MISMATCH
    forced = giver.direct()
    forced.challenge = _relabelled(forced, twin.approvers.policy_root)  # type: ignore[method-assign]
    assert refusal(lambda: joined(asked, forced, own)).code in {
        Code.CHALLENGE_INVALID,
        Code.PROVIDER_UNVERIFIED,
    }


def _relabelled(
    giver: Direct, root: bytes
) -> Callable[[bytes], tuple[bytes, bytes | None]]:
    real = giver.challenge

    def challenge(body: bytes) -> tuple[bytes, bytes | None]:
        answer, tls = real(body)
        tree = msgspec.json.decode(answer)
        tree["binding"]["identity"]["policy_root"] = encode_base64url(root)
        return msgspec.json.encode(tree), tls

    return challenge


def test_request_of_the_twin_is_refused_by_the_giver(
    scene: Scene, site: Site, giver: Giving, joiner: Asking
) -> None:
    twin = Approvers(2, threshold=2)
    stranger = Site(scene, approvers=twin)
    foreign = invitation(stranger, giver, joiner.candidate.parts)
    ours = invitation(site, giver, joiner.candidate.parts)
    swapped = giver.direct(on_request=lambda body: changed(body, invitation=foreign))
    assert code_of(joiner, swapped, ours) is Code.ACTION_PROVIDER_MISMATCH


def test_giver_that_the_invitation_does_not_name(
    site: Site, bundle: bytes, giver: Giving, joiner: Asking
) -> None:
    """The same image and policy, with a keyring of its own."""
    with giving(site, bundle, "other-giver", clock=clock) as other:
        invited = invitation(site, giver, joiner.candidate.parts)
        found = code_of(joiner, other.direct(), invited)
        assert found is Code.PROVIDER_IDENTITY_MISMATCH


# -- policy -------------------------------------------------------------------------


def test_measurement_that_the_policy_does_not_name(
    site: Site, bundle: bytes, giver: Giving
) -> None:
    asked = asking(site, bundle, next(_names), clock=clock, image="unheard of")
    invited = invitation(site, giver, asked.candidate.parts)
    assert code_of(asked, giver.direct(), invited) is Code.PROVIDER_NOT_ALLOWED


def test_giver_that_the_joiners_policy_does_not_name(scene: Scene) -> None:
    narrow = Site(scene, images=(NEXT_IMAGE,))
    bundle = narrow.bundle()
    with giving(narrow, bundle, "narrow-giver", clock=clock) as found:
        asked = asking(narrow, bundle, next(_names), clock=clock)
        invited = invitation(narrow, found, asked.candidate.parts)
        assert code_of(asked, found.direct(), invited) is Code.PROVIDER_NOT_ALLOWED


def test_giver_of_a_newer_policy_than_lies_here(scene: Scene) -> None:
    fresh = Site(scene)
    older, newer = fresh.bundle(), fresh.bundle()
    with giving(fresh, newer, "newer-giver", clock=clock) as found:
        asked = asking(fresh, older, next(_names), clock=clock)
        invited = invitation(fresh, found, asked.candidate.parts)
        assert code_of(asked, found.direct(), invited) is Code.HANDOFF_INVALID


def test_evidence_of_another_world(
    site: Site, giver: Giving, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Scene(tmp_path_factory.mktemp("elsewhere")) as elsewhere:
        foreign = Site(elsewhere, approvers=site.approvers)
        asked = asking(foreign, foreign.bundle(), "foreign", clock=clock)
        invited = invitation(site, giver, asked.candidate.parts)
        error = refusal(lambda: joined(asked, giver.direct(), invited))
        # Each refuses the other; the joiner comes first.
        assert error.code is Code.PROVIDER_UNVERIFIED


# -- once, on one machine -----------------------------------------------------------


def test_invitation_that_was_used(
    site: Site, bundle: bytes, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    joined(joiner, giver.direct(), invited)
    again = asking(site, bundle, next(_names), clock=clock)
    assert code_of(again, giver.direct(), invited) is Code.INVITATION_USED


def test_invitation_that_was_begun_on_another_machine(
    site: Site, bundle: bytes, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)

    def lost(_body: bytes) -> bytes:
        return b"{}"

    first = refusal(lambda: joined(joiner, giver.direct(on_response=lost), invited))
    assert first.code is Code.HANDOFF_INVALID
    other = asking(site, bundle, next(_names), clock=clock, machine="machine-c")
    assert code_of(other, giver.direct(), invited) is Code.INVITATION_USED
    # The machine that began may try again.
    assert not joined(joiner, giver.direct(), invited).confirmed


def test_replayed_join(site: Site, giver: Giving, joiner: Asking) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    direct = giver.direct()
    joined(joiner, direct, invited)
    request = direct.sent[0]
    # The very same bytes get the very same answer, which opens for one key alone.
    first = giver.provider.hand_over(request, now=clock())
    assert giver.provider.hand_over(request, now=clock()) == first
    other = changed(request, rehearsal=True)
    error = refusal(lambda: giver.provider.hand_over(other, now=clock()))
    assert error.code is Code.NONCE_REPLAYED


# -- what passes by the host --------------------------------------------------------


def _other_key(body: bytes) -> bytes:
    key = msgspec.json.decode(body)["recipient_key"]
    raw = bytearray(decode_base64url(key, field="key", max_bytes=4096))
    raw[-1] ^= 1
    return changed(body, recipient_key=bytes(raw))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(_other_key, id="recipient key"),
        pytest.param(lambda b: changed(b, confirm_key=b"\x05" * 32), id="confirm key"),
        pytest.param(lambda b: changed(b, rehearsal=True), id="rehearsal"),
    ],
)
def test_request_changed_on_the_way(
    site: Site, giver: Giving, joiner: Asking, change: Callable[[bytes], bytes]
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    found = code_of(joiner, giver.direct(on_request=change), invited)
    assert found is Code.REPORT_DATA_MISMATCH


def _flipped(name: str) -> Callable[[bytes], bytes]:
    def change(body: bytes) -> bytes:
        text = msgspec.json.decode(body)[name]
        raw = bytearray(decode_base64url(text, field=name, max_bytes=1 << 22))
        raw[len(raw) // 2] ^= 1
        return changed(body, **{name: bytes(raw)})

    return change


@pytest.mark.parametrize(
    "change",
    [
        _flipped("envelope"),
        _flipped("payload"),
        _flipped("transcript_hash"),
        _flipped("entry_id"),
        _flipped("signature"),
        lambda body: changed(body, issued_at=1),
        lambda body: changed(body, envelope=b""),
        lambda _body: b"[]",
    ],
    ids=[
        "envelope",
        "payload",
        "transcript hash",
        "entry id",
        "signature",
        "time",
        "envelope taken out",
        "another document",
    ],
)
def test_response_changed_on_the_way(
    site: Site, giver: Giving, joiner: Asking, change: Callable[[bytes], bytes]
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    found = code_of(joiner, giver.direct(on_response=change), invited)
    assert found is Code.HANDOFF_INVALID


def unreachable(_body: bytes) -> bytes:
    raise ProviderError(Code.PROVIDER_UNREACHABLE, "the way is cut")


def test_response_to_another_exchange(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    kept: list[bytes] = []

    def keep(body: bytes) -> bytes:
        kept.append(body)
        return kept[0]

    direct = giver.direct(on_response=keep, on_confirm=unreachable)
    assert joined(joiner, direct, invited).confirmed
    joiner.file.unlink()
    assert code_of(joiner, direct, invited) is Code.HANDOFF_INVALID


# -- the confirmation ---------------------------------------------------------------


def test_confirmation_by_somebody_else(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    direct = giver.direct(on_confirm=_flipped("signature"))
    with pytest.raises(TightsealError) as refused:
        joined(joiner, direct, invited)
    assert refused.value.code is Code.REPORT_DATA_MISMATCH
    # The keyring is here all the same, and a repetition tells the giver.
    assert joiner.file.exists()
    assert not joined(joiner, giver.direct(), invited).confirmed


def test_confirmation_of_nothing(site: Site, giver: Giving, joiner: Asking) -> None:
    invited = invitation(site, giver, joiner.candidate.parts)
    direct = giver.direct()
    joined(joiner, direct, invited)
    other = changed(direct.sent[1], invitation=b"\x09" * 16)
    error = refusal(lambda: giver.provider.confirm_handoff(other, now=clock()))
    assert error.code is Code.HANDOFF_UNKNOWN


def test_identity_of_providers_is_whole(giver: Giving, joiner: Asking) -> None:
    parts = ProviderParts.of(giver.provider.built().attested.identity)
    assert parts != joiner.candidate.parts
    assert parts.settings_digest == joiner.candidate.parts.settings_digest
