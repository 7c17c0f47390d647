# SPDX-License-Identifier: Apache-2.0
"""One tenant's branch at a provider of its own, and providers whose way is taken."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from desk_rig import (
    Asking,
    Giving,
    asking,
    giving,
    invitation,
    joined,
    refusal,
)

from handoff_scene import Site
from tightseal.errors import Code
from tightseal.keys.chain import derive, tenant_node, wrapping_key
from tightseal.keys.keyring import Keyring, KeyringFile, rotate
from tightseal.keys.legacy import legacy_key
from tightseal.model.action import (
    Action,
    ActionKind,
    KeyringParameters,
    RevokeParameters,
)
from tightseal.model.branch import BranchRoot
from tightseal.model.claims import Tee
from tightseal.model.keypath import (
    Authority,
    IdentityKind,
    Kdf,
    KeyPath,
    KeyType,
    ProtocolClass,
    WorkloadBinding,
)
from tightseal.model.provider import branch_keyring_id
from tightseal.model.secret import Secret
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.roots import ways_of
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


_names = iter(range(1000))


@pytest.fixture
def giver(site: Site, bundle: bytes) -> Iterator[Giving]:
    with giving(site, bundle, f"giver-{next(_names)}", clock=clock) as found:
        yield found


@pytest.fixture
def joiner(site: Site, bundle: bytes) -> Asking:
    return asking(site, bundle, f"joiner-{next(_names)}", clock=clock)


def path_of(tenant: str, domain: str, **changes: object) -> KeyPath:
    binding = WorkloadBinding(
        identity=IdentityKind.NAMED,
        name="database",
        tee=Tee.TDX,
        attributes=(),
        measurements=(),
        authority=Authority("policy_root", b"r" * 32),
    )
    path = KeyPath(
        kdf=Kdf.HKDF_SHA256,
        trust_domain=domain,
        tenant=tenant,
        generation=1,
        protocol_class=ProtocolClass.V1,
        workload=binding,
        purpose="disk",
        label="",
        length=32,
        key_type=KeyType.RAW,
    )
    return replace(path, **changes)  # type: ignore[arg-type]


def reopened(asked: Asking) -> Keyring:
    settings, platform = asked.candidate.settings, asked.candidate.platform
    return KeyringKeeper(ways_of(settings, platform)).keyring


def test_branch_has_its_tenants_keys_and_no_others(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts, tenant="acme")
    done = joined(joiner, giver.direct(), invited)
    assert done.tenant == "acme"
    assert done.keyring_id == branch_keyring_id(giver.keeper.keyring_id, "acme")
    whole, branch = giver.keeper.root(1), reopened(joiner).root(1)
    assert isinstance(branch, BranchRoot)
    path = path_of("acme", site.domain)
    assert derive(branch, path) == derive(whole, path)
    assert wrapping_key(branch, path) == wrapping_key(whole, path)
    for other in (
        path_of("umbrella", site.domain),
        path_of("acme", "intel"),
        path_of("acme", site.domain, kdf=Kdf.HKDF_SHA384),
    ):
        error = refusal(lambda other=other: derive(branch, other))
        assert error.code is Code.KEY_NOT_IN_BRANCH
    registers = {f"rtmr{i}": bytes(48) for i in range(4)}
    error = refusal(lambda: legacy_key(branch, mrtd=bytes(48), **registers))
    assert error.code is Code.KEY_NOT_IN_BRANCH


def test_branch_holds_neither_roots_nor_the_parents_key(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts, tenant="acme")
    joined(joiner, giver.direct(), invited)
    below, above = reopened(joiner), giver.keeper.keyring
    assert below.key != above.key
    assert below.root(1) != above.root(1)
    # Nor slots: what opens the parent is nobody else's business.
    assert not {s.slot_id for s in below.slots} & {s.slot_id for s in above.slots}


def test_branch_is_not_rotated_by_itself(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    invited = invitation(site, giver, joiner.candidate.parts, tenant="acme")
    joined(joiner, giver.direct(), invited)
    error = refusal(lambda: rotate(reopened(joiner), now=clock()))
    assert error.code is Code.GENERATION_NOT_ALLOWED


def test_branch_follows_its_parent_when_handed_over_again(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    first = invitation(site, giver, joiner.candidate.parts, tenant="acme")
    joined(joiner, giver.direct(), first)
    slots = {slot.slot_id for slot in reopened(joiner).slots}
    giver.keeper.change(lambda keyring: rotate(keyring, now=clock()))
    second = invitation(site, giver, joiner.candidate.parts, tenant="acme")
    assert joined(joiner, giver.direct(), second).generation == 2
    again = reopened(joiner)
    assert {slot.slot_id for slot in again.slots} == slots
    path = path_of("acme", site.domain, generation=2)
    assert derive(again.root(2), path) == derive(giver.keeper.root(2), path)


def test_branch_of_another_tenant_does_not_take_its_place(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    joined(
        joiner,
        giver.direct(),
        invitation(site, giver, joiner.candidate.parts, tenant="acme"),
    )
    before = joiner.file.read_bytes()
    other = invitation(site, giver, joiner.candidate.parts, tenant="umbrella")
    error = refusal(lambda: joined(joiner, giver.direct(), other))
    assert error.code is Code.KEYRING_MISMATCH
    assert joiner.file.read_bytes() == before


def test_tenant_node_of_a_branch_is_itself() -> None:
    node = tenant_node(Secret(b"r" * 32), trust_domain="intel", tenant="acme")
    again = tenant_node(node, trust_domain="intel", tenant="acme")
    assert again == node
    error = refusal(lambda: tenant_node(node, trust_domain="intel", tenant="other"))
    assert error.code is Code.KEY_NOT_IN_BRANCH


# -- an older copy ------------------------------------------------------------------


def test_older_copy_follows_when_it_is_handed_over_again(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    joined(joiner, giver.direct(), invitation(site, giver, joiner.candidate.parts))
    slots = {slot.slot_id for slot in reopened(joiner).slots}
    giver.keeper.change(lambda keyring: rotate(keyring, now=clock()))
    again = invitation(site, giver, joiner.candidate.parts)
    assert joined(joiner, giver.direct(), again).generations == 2
    assert reopened(joiner).root(2) == giver.keeper.root(2)
    assert {slot.slot_id for slot in reopened(joiner).slots} == slots


def test_newer_copy_is_not_replaced_by_an_older_one(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    joined(joiner, giver.direct(), invitation(site, giver, joiner.candidate.parts))
    settings, platform = joiner.candidate.settings, joiner.candidate.platform
    ahead = KeyringKeeper(ways_of(settings, platform))
    ahead.change(lambda keyring: rotate(keyring, now=clock()))
    before = joiner.file.read_bytes()
    again = invitation(site, giver, joiner.candidate.parts)
    error = refusal(lambda: joined(joiner, giver.direct(), again))
    assert error.code is Code.KEYRING_EXISTS
    assert joiner.file.read_bytes() == before


def test_another_keyring_that_lies_there_is_kept(
    site: Site, bundle: bytes, giver: Giving, joiner: Asking
) -> None:
    with giving(site, bundle, f"giver-{next(_names)}", clock=clock) as other:
        joined(joiner, other.direct(), invitation(site, other, joiner.candidate.parts))
    before = joiner.file.read_bytes()
    mine = invitation(site, giver, joiner.candidate.parts)
    error = refusal(lambda: joined(joiner, giver.direct(), mine))
    assert error.code is Code.KEYRING_MISMATCH
    assert joiner.file.read_bytes() == before


# -- revocation ---------------------------------------------------------------------


def revocation(
    site: Site, giver: Giving, slots: tuple[bytes, ...], invited: bytes | None
) -> bytes:
    now = clock()
    action = Action(
        kind=ActionKind.REVOKE_PROVIDER,
        policy_root=site.approvers.policy_root,
        keyring_id=giver.keeper.keyring_id,
        action_id=secrets.token_bytes(16),
        issued_at=now,
        expires_at=now + 3600,
        parameters=RevokeParameters(
            counter=giver.keeper.keyring.header.counter,
            slots=tuple(sorted(slots)),
            invitation=invited,
        ),
    )
    return site.approvers.action(action)


def test_revoked_provider_opens_nothing_new(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    fixed = b"\x21" * 16
    invited = invitation(site, giver, joiner.candidate.parts, action_id=fixed)
    done = joined(joiner, giver.direct(), invited)
    signed = revocation(site, giver, done.slots, fixed)
    giver.provider.act(signed, now=clock())
    keyring = giver.keeper.keyring
    assert not {slot.slot_id for slot in keyring.slots} & set(done.slots)
    assert keyring.current.number == 2
    # The file as it is from now on does not open where the revoked one stands.
    settings = joiner.candidate.settings
    newer = settings.host.keyring_path
    newer.write_bytes(KeyringFile(giver.file).load().data)
    with pytest.raises(Exception, match="slots opens here"):
        reopened(joiner)
    newer.unlink()
    error = refusal(lambda: joined(joiner, giver.direct(), invited))
    assert error.code is Code.PROVIDER_REVOKED
    again = refusal(lambda: giver.provider.act(signed, now=clock()))
    assert again.code is Code.ACTION_REPLAYED


def test_last_way_of_the_provider_that_revokes_stays(site: Site, giver: Giving) -> None:
    every = tuple(slot.slot_id for slot in giver.keeper.keyring.slots)
    signed = revocation(site, giver, every, None)
    error = refusal(lambda: giver.provider.act(signed, now=clock()))
    assert error.code is Code.SLOT_LAST
    assert giver.keeper.keyring.current.number == 1


def test_invitation_that_was_never_used_is_revoked_too(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    fixed = b"\x07" * 16
    signed = revocation(site, giver, (), fixed)
    giver.provider.act(signed, now=clock())
    assert giver.keeper.keyring.current.number == 2
    invited = invitation(site, giver, joiner.candidate.parts, action_id=fixed)
    error = refusal(lambda: joined(joiner, giver.direct(), invited))
    assert error.code is Code.PROVIDER_REVOKED


# -- an older giver, and two that go on ---------------------------------------------


def test_giver_whose_keyring_is_older_than_the_invitation(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """The genuine provider, started by its host on a copy from before."""
    counter = giver.keeper.keyring.header.counter + 1
    invited = invitation(site, giver, joiner.candidate.parts, counter=counter)
    error = refusal(lambda: joined(joiner, giver.direct(), invited))
    assert error.code is Code.KEYRING_ROLLED_BACK
    assert not joiner.file.exists()


def rotation(site: Site, giver: Giving) -> bytes:
    now = clock()
    action = Action(
        kind=ActionKind.ROTATE_KEYRING,
        policy_root=site.approvers.policy_root,
        keyring_id=giver.keeper.keyring_id,
        action_id=secrets.token_bytes(16),
        issued_at=now,
        expires_at=now + 3600,
        parameters=KeyringParameters(giver.keeper.keyring.header.counter),
    )
    return site.approvers.action(action)


def test_giver_without_a_shared_store_makes_no_generations_any_more(
    site: Site, giver: Giving, joiner: Asking
) -> None:
    """Else both would, each with roots of its own under one number."""
    giver.provider.act(rotation(site, giver), now=clock())
    fixed = b"\x31" * 16
    invited = invitation(site, giver, joiner.candidate.parts, action_id=fixed)
    done = joined(joiner, giver.direct(), invited)
    error = refusal(lambda: giver.provider.act(rotation(site, giver), now=clock()))
    assert error.code is Code.ACTION_NOT_ALLOWED
    giver.provider.act(revocation(site, giver, done.slots, fixed), now=clock())
    giver.provider.act(rotation(site, giver), now=clock())
    assert giver.keeper.keyring.current.number == 4
