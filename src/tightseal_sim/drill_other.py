# SPDX-License-Identifier: Apache-2.0
"""The other providers of a drill: those that slots have their keys from.

A sidecar stands on the same machine and has its root from its own sealing key; a peer
stands on a machine of its own and has a random root. Both are the product's own
pipeline, and are asked by the product's own client; only the network is left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Final

import httpx

from tightseal.errors import TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.pins import ProviderPin
from tightseal.guest.provider import ProviderCollateral
from tightseal.model.exchange import LogPromise
from tightseal.model.generation import Generations
from tightseal.model.keypath import Authority
from tightseal.model.ports import (
    Completion,
    EvidenceSource,
    JournalEntry,
    KeyRoots,
    NonceRedemption,
    Verifier,
)
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings
from tightseal.model.slots import SlotKey
from tightseal.model.wire import (
    CHALLENGE_PATH,
    PROBLEM_CONTENT_TYPE,
    ChallengeRequest,
    decode_json,
    encode_json,
)
from tightseal.platform.attested import AttestedKeys
from tightseal.platform.slots.provider import ProviderSlot
from tightseal.policy.compile import compile_policy
from tightseal.policy.read import parse
from tightseal.release.policy import InForce
from tightseal.release.provider import Provider
from tightseal.release.roots import PlatformRoots
from tightseal.service.keyring_settings import ProviderSlotSettings
from tightseal.service.problem import problem
from tightseal.service.slotprovider import SLOT_PURPOSE, PinnedProvider
from tightseal.state.nonces import NonceMint
from tightseal_sim.intel.enclave import EnclaveImage, SimEnclave
from tightseal_sim.sources import WorldSource
from tightseal_sim.world import World

__all__ = ["PEER_IMAGE", "PEER_MACHINE", "Others", "UnreadJournal"]

PEER_IMAGE: Final = EnclaveImage(name="tightseal-peer", code=b"release 1")
SIDECAR_IMAGE: Final = EnclaveImage(name="tightseal-sidecar", code=b"release 1")
PEER_MACHINE: Final = "machine C"
PEER_ROOT: Final = hashlib.sha256(b"tightseal_sim/v1/drill/peer-policy").digest()
PEER_KEYRING: Final = hashlib.sha256(b"tightseal_sim/v1/drill/peer-keyring").digest()

_ROOT: Final = hashlib.sha256(b"tightseal_sim/v1/drill/peer").digest()
_ADDRESS: Final = ProviderSlotSettings(url="http://other-provider:3442")


@dataclass
class Others:
    """What events change about the other providers.

    Attributes:
        reachable: whether they answer.
        image: the peer's.
        pinned: the peer's image that our settings pin.
        accepted: the images that the peer's policy names.
    """

    accepted: tuple[EnclaveImage, ...]
    reachable: bool = True
    image: EnclaveImage = PEER_IMAGE
    pinned: EnclaveImage = PEER_IMAGE

    def sidecar(
        self, world: World, machine: str, *, source: EvidenceSource, now: int
    ) -> SlotKey:
        """The slot at the sidecar on a machine."""
        enclave = world.intel.platform(machine).load_enclave(SIDECAR_IMAGE)
        in_force = InForce.builtin(ReleaseSettings())
        roots = PlatformRoots(enclave)
        other = _Other(world, enclave, in_force, roots, sidecar_keyring_id())
        pin = other.identity(SIDECAR_IMAGE)
        return self._slot(other, pin, source=source, now=now)

    def peer(self, world: World, *, source: EvidenceSource, now: int) -> SlotKey:
        """The slot at the peer, whose policy names images of ours."""
        enclave = world.intel.platform(PEER_MACHINE).load_enclave(self.image)
        policy = compile_policy([parse(_document(self.accepted, _domain(world)))])
        settings = ReleaseSettings()
        in_force = InForce(
            policy=policy,
            settings=settings,
            authority=Authority("policy_root", PEER_ROOT),
            policy_root=PEER_ROOT,
        )
        other = _Other(world, enclave, in_force, _PeerRoots(), PEER_KEYRING)
        pin = other.identity(self.pinned)
        return self._slot(other, pin, source=source, now=now)

    def _slot(
        self,
        other: _Other,
        identity: ProviderIdentity,
        *,
        source: EvidenceSource,
        now: int,
    ) -> SlotKey:
        domain = _domain(other.world)
        pinned = PinnedProvider(
            _ADDRESS,
            pin=ProviderPin(identity, frozenset({domain}), allow_simulated=True),
            source=source,
            collateral=lambda: ProviderCollateral.behind(other.verifier),
            domain=domain,
            clock=lambda: now,
            transport=httpx.MockTransport(self._answering(other, now)),
        )
        return ProviderSlot(pinned)

    def _answering(
        self, other: _Other, now: int
    ) -> Callable[[httpx.Request], httpx.Response]:
        def answer(request: httpx.Request) -> httpx.Response:
            if not self.reachable:
                message = "nobody answers"
                raise httpx.ConnectError(message, request=request)
            try:
                body = other.answer(request.url.path, request.content, now=now)
                status, kind = 200, "application/json"
            except TightsealError as e:
                told = problem(e)
                status, body = told.status_code, bytes(told.body)
                kind = PROBLEM_CONTENT_TYPE
            return httpx.Response(
                status,
                headers={"content-type": kind},
                # A stream: the client counts bytes while it reads.
                stream=httpx.ByteStream(body),
            )

        return answer


class _PeerRoots:
    """Implements ``KeyRoots``: the peer's random root, which it never loses here."""

    keyring_id = PEER_KEYRING
    simulated = True

    def generations(self) -> Generations:
        """One."""
        return Generations(current=1, previous=None, open=frozenset({1}))

    def root(self, generation: int) -> Secret:
        """The root."""
        return Secret(_ROOT + bytes([generation]))


class UnreadJournal:
    """Implements ``Recorder``: nobody reads it."""

    def record(
        self,
        entry: JournalEntry,
        *,
        redemption: NonceRedemption | None,
        response: bytes | Completion,
    ) -> bytes:
        """Taken."""
        del entry, redemption
        return response(b"") if callable(response) else response

    def submit(
        self,
        entry: JournalEntry,
        *,
        redemption: NonceRedemption | None,
        response: bytes | Completion,
    ) -> Future[bytes]:
        """Taken at once."""
        done: Future[bytes] = Future()
        done.set_result(self.record(entry, redemption=redemption, response=response))
        return done

    def promise(self, entry: JournalEntry) -> LogPromise | None:
        """None: there is no log."""
        del entry
        return None

    def nonce_era(self) -> int:
        """The first: nothing is ever forgotten."""
        return 0

    def kept_response(self, redemption: NonceRedemption) -> bytes | None:
        """None: requests of a drill arrive once."""
        del redemption
        return None


@dataclass
class _Other:
    """A provider that was just started."""

    world: World
    enclave: SimEnclave
    in_force: InForce
    roots: KeyRoots
    keyring_id: bytes
    verifier: Verifier = field(init=False)
    provider: Provider = field(init=False)

    def __post_init__(self) -> None:
        """The whole pipeline, in memory."""
        self.verifier = EvidenceVerifier(
            roots=with_simulated(VENDOR_ROOTS, self.world.intel.root_certificate),
            source=WorldSource(self.world),
            cache=ResultCache(64),
        )
        settings = self.in_force.settings
        self.provider = Provider(
            in_force=self.in_force,
            verifier=self.verifier,
            platform=self.enclave,
            roots=self.roots,
            attested=AttestedKeys(
                platform=self.enclave,
                verifier=self.verifier,
                identity=self._identity,
                seed=Secret(_ROOT),
                life=settings.attested_key_life,
                grace=settings.nonce_life,
            ),
            mint=NonceMint(Secret(_ROOT), life=settings.nonce_life),
            recorder=UnreadJournal(),
        )

    def identity(self, image: EnclaveImage) -> ProviderIdentity:
        """Its identity, were it this image."""
        return self._identity("sgx", image.mr_enclave)

    def _identity(self, tee: str, measurement: bytes) -> ProviderIdentity:
        return ProviderIdentity(
            tee=tee,
            measurement=measurement,
            keyring_id=self.keyring_id,
            policy_root=self.in_force.policy_root,
            settings_digest=self.in_force.settings_digest,
        )

    def answer(self, path: str, body: bytes, *, now: int) -> bytes:
        """What it answers to one request."""
        if path == CHALLENGE_PATH:
            asked = decode_json(body, ChallengeRequest)
            return encode_json(self.provider.challenge(asked, now=now))
        return self.provider.keys(body, now=now)


def _domain(world: World) -> str:
    return str(world.intel.trusted_root.trust_domain)


def _document(images: tuple[EnclaveImage, ...], domain: str) -> str:
    """The peer's policy: one name for our provider, whatever image of these it is."""
    named = "".join(
        f'[[workload.image]]\nlabel = "release-{number}"\n'
        f'measurements = {{ mrenclave = "{image.mr_enclave.hex()}" }}\n'
        for number, image in enumerate(images, 1)
    )
    return (
        'version = 1\n[[workload]]\ntenant = "drill"\nname = "provider"\n'
        'identity = "named"\ntee = "sgx"\nplatform = "any"\n'
        f'trust_domain = "{domain}"\n{named}'
        f'[[workload.key]]\npurpose = "{SLOT_PURPOSE}"\nlabels = ["*"]\n'
    )
