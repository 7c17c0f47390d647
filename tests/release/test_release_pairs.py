# SPDX-License-Identifier: Apache-2.0
"""Key pairs through the whole pipeline: a policy, a workload, and anybody who asks."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from release_rig import NOW, Rig, provider_enclave, root_texts, verifier_of

from tightseal.audit.journal import SqliteJournal
from tightseal.errors import Code, PolicyError, ProviderError
from tightseal.guest.pins import ProviderPin, RootedIdentity
from tightseal.guest.provider import ProviderCollateral
from tightseal.guest.public_key import (
    KeyName,
    PublicKey,
    public_key_request,
    verify_public_key,
)
from tightseal.guest.released import ReleasedKeys
from tightseal.keys.pairs import public_half
from tightseal.model.keypath import Authority, KeyPart, KeyRequest, KeyType
from tightseal.model.provider import ProviderIdentity
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings
from tightseal.model.wire import PublicKeyRequest, decode_json, encode_json
from tightseal.policy.compile import load_policy
from tightseal.release import InForce, Provider
from tightseal.release.roots import PlatformRoots
from tightseal.state.nonces import NonceMint
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World

ROOT = b"r" * 32
DIGEST = b"d" * 32
NONCE = b"n" * 32
PAIRS = tuple(kind for kind in KeyType if kind is not KeyType.RAW)
REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2")


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"key pairs".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


def document(world: World, td: SimTd, *, kinds: tuple[KeyType, ...] = PAIRS) -> str:
    claims = verifier_of(world)(td.evidence(bytes(64)), now=NOW)
    measured = "\n".join(
        f'{name} = "{claims.measurements[name].hex()}"' for name in REGISTERS
    )
    keys = "\n".join(
        f'[[workload.key]]\npurpose = "{kind.value}"\ntype = "{kind.value}"\n'
        f'labels = ["", "a"]\npublished = {str(kind is not KeyType.P256).lower()}\n'
        for kind in kinds
    )
    return f"""version = 1
[[workload]]
name = "web"
tenant = "acme"
identity = "named"
tee = "tdx"
trust_domain = "{world.intel.trusted_root.trust_domain}"
platform = "same"
[[workload.image]]
label = "2026-10"
[workload.image.measurements]
{measured}
rtmr3 = {{ zero = true }}
{keys}
[[workload.key]]
purpose = "disk"
[[workload.key]]
purpose = "sealed"
type = "ed25519"
parts = ["public"]
"""


class PolicyRig(Rig):
    """A rig whose provider decides by a document under a policy root."""

    def under(self, text: str, root: bytes = ROOT) -> "PolicyRig":
        self.root = root
        self.__post_init__()
        self.provider = Provider(
            in_force=InForce(
                policy=load_policy(text),
                settings=self.settings,
                authority=Authority("policy_root", root),
                policy_root=root,
                version=7,
                digest=DIGEST,
            ),
            verifier=verifier_of(self.world),
            platform=self.platform,
            roots=PlatformRoots(self.platform),
            attested=self.attested,
            mint=NonceMint(Secret(b"m" * 32), life=self.settings.nonce_life),
            recorder=self.journal,
        )
        return self

    def identity(self, tee: str, measurement: bytes) -> ProviderIdentity:
        made = super().identity(tee, measurement)
        return replace(made, policy_root=getattr(self, "root", ROOT))

    def rooted_pin(self) -> ProviderPin:
        """What an image pins that leaves the settings to the policy root."""
        pin = self.pin()
        of = pin.identity
        identity = RootedIdentity(of.tee, of.measurement, of.keyring_id, ROOT)
        return replace(pin, identity=identity)

    def released(self, td: SimTd, *keys: KeyRequest) -> ReleasedKeys:
        exchange, body = self.question(td, keys)
        return exchange.open_response(self.provider.keys(body, now=NOW), now=NOW)

    def published(self, name: KeyName, pin: ProviderPin | None = None) -> PublicKey:
        body = public_key_request(name, client_nonce=NONCE, collateral=False)
        asked = decode_json(body, PublicKeyRequest)
        answer = encode_json(self.provider.public_key(asked, now=NOW))
        return verify_public_key(
            answer,
            name=name,
            client_nonce=NONCE,
            pin=pin or self.pin(),
            collateral=ProviderCollateral.behind(verifier_of(self.world)),
            now=NOW,
        )


@pytest.fixture
def made(world: World, td: SimTd, tmp_path: Path) -> Iterator[PolicyRig]:
    journal = SqliteJournal.open_or_create(tmp_path / "journal.sqlite")
    try:
        yield PolicyRig(
            world=world,
            journal=journal,
            settings=ReleaseSettings(simulated_roots=root_texts(world)),
            platform=provider_enclave(world),
        ).under(document(world, td))
    finally:
        journal.close()


@pytest.mark.parametrize("kind", PAIRS)
def test_both_halves_are_of_one_pair(made: PolicyRig, td: SimTd, kind: KeyType) -> None:
    request = KeyRequest(kind.value, "a")
    with made.released(td, request) as keys:
        private = keys.key(kind.value, "a")
        assert (private.type, private.part) == (kind, KeyPart.PRIVATE)
        half = public_half(private.secret, kind)
    public = made.released(td, replace(request, part=KeyPart.PUBLIC))
    assert public.get(kind.value, "a").reveal() == half
    assert public.key(kind.value, "a").type is kind
    assert public.receipt.policy is not None
    assert (public.receipt.policy.version, public.receipt.policy.digest) == (7, DIGEST)


def test_every_type_and_the_raw_key_in_one_exchange(made: PolicyRig, td: SimTd) -> None:
    asked = [KeyRequest(kind.value) for kind in PAIRS]
    keys = made.released(td, KeyRequest("disk"), *asked)
    assert [key.type for key in keys.keys] == [KeyType.RAW, *PAIRS]
    assert len({key.secret.reveal() for key in keys.keys}) == len(keys.keys)


@pytest.mark.parametrize("kind", [k for k in PAIRS if k is not KeyType.P256])
def test_anybody_learns_the_half_that_the_workload_has(
    made: PolicyRig, td: SimTd, kind: KeyType
) -> None:
    said = made.published(KeyName("acme", "web", kind.value, "a"))
    private = made.released(td, KeyRequest(kind.value, "a")).key(kind.value, "a")
    assert said.public_key == private.public_half()
    assert (said.type, said.generation) == (kind, private.generation)
    assert said.trust_domain.startswith("simulated:")
    assert said.policy is not None
    assert said.policy.version == 7


def test_a_signature_by_the_workload_is_checked_by_a_stranger(
    made: PolicyRig, td: SimTd
) -> None:
    private = made.released(td, KeyRequest("ed25519")).get("ed25519").reveal()
    signature = Ed25519PrivateKey.from_private_bytes(private).sign(b"message")
    said = made.published(KeyName("acme", "web", "ed25519"), made.rooted_pin())
    Ed25519PublicKey.from_public_bytes(said.public_key).verify(signature, b"message")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (KeyName("acme", "web", "p256"), Code.PURPOSE_NOT_ALLOWED),
        (KeyName("acme", "web", "disk"), Code.PURPOSE_NOT_ALLOWED),
        (KeyName("acme", "web", "none"), Code.PURPOSE_NOT_ALLOWED),
        (KeyName("acme", "web2", "ed25519"), Code.PURPOSE_NOT_ALLOWED),
        (KeyName("evil", "web", "ed25519"), Code.PURPOSE_NOT_ALLOWED),
        (KeyName("acme", "web", "ed25519", "b"), Code.KEY_LABEL_NOT_ALLOWED),
    ],
    ids=["not_published", "raw", "no_purpose", "no_workload", "no_tenant", "label"],
)
def test_what_is_not_published_is_not_said(
    made: PolicyRig, name: KeyName, code: Code
) -> None:
    with pytest.raises(PolicyError) as caught:
        made.published(name)
    assert caught.value.code is code


@pytest.mark.parametrize(
    "key",
    [
        KeyRequest("disk", part=KeyPart.PUBLIC),
        KeyRequest("sealed", part=KeyPart.PRIVATE),
    ],
    ids=["public_half_of_a_raw_key", "private_half_that_never_leaves"],
)
def test_a_part_that_may_not_leave(made: PolicyRig, td: SimTd, key: KeyRequest) -> None:
    with pytest.raises(PolicyError) as caught:
        made.released(td, key)
    assert caught.value.code is Code.KEY_PART_NOT_ALLOWED


def test_a_pair_is_asked_for_by_its_length(made: PolicyRig, td: SimTd) -> None:
    with pytest.raises(PolicyError) as caught:
        made.released(td, KeyRequest("ed25519", "", 64))
    assert caught.value.code is Code.KEY_LENGTH_NOT_ALLOWED


def test_a_host_with_a_root_of_its_own_is_refused_by_name(
    made: PolicyRig, td: SimTd
) -> None:
    """The genuine image on the same machine, under a policy that the host signed."""
    pin = made.rooted_pin()
    name = KeyName("acme", "web", "ed25519")
    honest = made.published(name, pin).public_key
    made.under(document(made.world, td), root=b"h" * 32)
    with pytest.raises(ProviderError, match="policy_root: ") as caught:
        made.published(name, pin)
    assert caught.value.code is Code.PROVIDER_IDENTITY_MISMATCH
    assert made.published(name, made.pin()).public_key != honest


def test_another_type_of_a_purpose_is_another_key(made: PolicyRig, td: SimTd) -> None:
    before = made.released(td, KeyRequest("ed25519")).get("ed25519").reveal()
    text = document(made.world, td, kinds=(KeyType.ED25519,))
    made.under(text.replace('type = "ed25519"\nlabels', 'type = "x25519"\nlabels'))
    changed = made.released(td, KeyRequest("ed25519")).key("ed25519")
    assert changed.type is KeyType.X25519
    assert changed.secret.reveal()[1:31] != before[1:31]
