# SPDX-License-Identifier: Apache-2.0
"""Two providers of a drill and their operators: who gives, who joins, who signs.

Both are the product's own, with evidence of their own platforms; only the network
between them is left out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.provider import ProviderCollateral
from tightseal.model.action import (
    Action,
    ActionKind,
    InviteParameters,
    Parameters,
    ProviderParts,
)
from tightseal.model.keypath import Authority
from tightseal.model.ports import RootPlatform, Verifier
from tightseal.model.provider import ProviderIdentity
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings
from tightseal.model.slots import FIRST_FACTORS
from tightseal.model.state import StateStore
from tightseal.model.wire import ChallengeRequest, decode_json, encode_json
from tightseal.platform.attested import AttestedKeys
from tightseal.policy.compile import compile_policy
from tightseal.policy.compiled import Policy
from tightseal.policy.read import parse
from tightseal.recovery.desk import HandoffDesk
from tightseal.recovery.join import Joined, join
from tightseal.recovery.joiner import Joiner
from tightseal.release.handoffs import Handoffs
from tightseal.release.keyring import KeyringKeeper
from tightseal.release.policy import InForce
from tightseal.release.provider import Provider
from tightseal.state.nonces import NonceMint
from tightseal_sim.approvers import Approvers
from tightseal_sim.drill_disk import DrillSystem
from tightseal_sim.drill_other import UnreadJournal
from tightseal_sim.drill_site import IMAGE, NOW, POLICY_VERSION, Site
from tightseal_sim.drill_stage import Stage
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.sources import WorldSource

__all__ = ["Fleet", "Giving", "next_site"]

RELEASE_2: Final = EnclaveImage(
    name="tightseal-provider", code=b"release 2", isv_prod_id=7, isv_svn=4
)
ROLE_ACTIONS: Final = (ActionKind.INVITE_PROVIDER, ActionKind.REVOKE_PROVIDER)

_SEED: Final = hashlib.sha256(b"tightseal_sim/v1/drill/fleet").digest()


def next_site(site: Site) -> Site:
    """Another machine with the next version of the provider."""
    return Site(
        site.tee,
        world=site.world,
        machine="machine B",
        image=RELEASE_2,
        policy_root=site.policy_root,
    )


@dataclass
class Giving:
    """A provider with the keyring; implements ``recovery.meeting.Giver``.

    Attributes:
        provider: answers challenges.
        desk: hands over.
        on_response: what the way does to an answer.
    """

    provider: Provider
    desk: HandoffDesk
    on_response: Callable[[bytes], bytes] = lambda body: body

    def challenge(self, body: bytes) -> tuple[bytes, bytes | None]:
        """As of ``Giver``."""
        asked = decode_json(body, ChallengeRequest)
        return encode_json(self.provider.challenge(asked, now=NOW)), None

    def hand_over(self, body: bytes) -> bytes:
        """As of ``Giver``."""
        return self.on_response(self.desk.hand_over(body, now=NOW))

    def confirm(self, body: bytes) -> bytes:
        """As of ``Giver``."""
        return self.desk.confirm(body, now=NOW)


@dataclass
class Fleet:
    """What providers of one keyring have in common.

    Attributes:
        stage: the first provider, its disk, and its keys as they were.
        store: the state store.
        approvers: the operators.
        named: the provider images that the policy names.
    """

    stage: Stage
    store: StateStore
    approvers: Approvers = field(
        default_factory=lambda: Approvers(2, threshold=2, now=NOW)
    )
    named: tuple[EnclaveImage, ...] = (IMAGE, RELEASE_2)

    @cached_property
    def policy(self) -> Policy:
        """Two operators of two, and the images of the provider."""
        keys = ", ".join(f'"{key.public_key.hex()}"' for key in self.approvers.keys)
        listed = ", ".join(f'"{kind.value}"' for kind in ROLE_ACTIONS)
        site = self.stage.site
        values = ", ".join(f'"{image.mr_enclave.hex()}"' for image in self.named)
        return compile_policy(
            [
                parse(
                    f'version = 1\n[[role]]\nname = "operators"\nthreshold = 2\n'
                    f"keys = [{keys}]\nactions = [{listed}]\n"
                    f'[[provider]]\nname = "ours"\ntee = "sgx"\n'
                    f'measurements = [{values}]\ntrust_domain = "{site.trust_domain}"\n'
                )
            ]
        )

    def in_force(self, site: Site) -> InForce:
        """The policy, under the root that a provider pins."""
        return InForce(
            policy=self.policy,
            settings=ReleaseSettings(),
            authority=Authority("policy_root", site.policy_root),
            policy_root=site.policy_root,
            version=POLICY_VERSION,
            digest=hashlib.sha256(b"drill").digest(),
        )

    def giving(self, keeper: KeyringKeeper, site: Site | None = None) -> Giving:
        """The provider that has the keyring, started now."""
        here = self.stage.site if site is None else site
        in_force, platform = self.in_force(here), here.platform()
        verifier = self._verifier()

        def identity(tee: str, measurement: bytes) -> ProviderIdentity:
            return ProviderIdentity(
                tee=tee,
                measurement=measurement,
                keyring_id=keeper.keyring_id,
                policy_root=here.policy_root,
                settings_digest=in_force.settings_digest,
            )

        attested = AttestedKeys(
            platform=platform,
            verifier=verifier,
            identity=identity,
            seed=Secret(_SEED),
            life=in_force.settings.attested_key_life,
            grace=in_force.settings.nonce_life,
        )
        mint = NonceMint(Secret(_SEED), life=in_force.settings.nonce_life)
        provider = Provider(
            in_force=in_force,
            verifier=verifier,
            platform=platform,
            roots=keeper,
            attested=attested,
            mint=mint,
            recorder=UnreadJournal(),
        )
        desk = HandoffDesk(
            in_force=in_force,
            verifier=verifier,
            attested=attested,
            mint=mint,
            recorder=UnreadJournal(),
            keeper=keeper,
            handoffs=Handoffs(self.store),
        )
        return Giving(provider, desk)

    def joiner(
        self, site: Site, stage: Stage, *, system: DrillSystem | None = None
    ) -> Joiner:
        """A provider that has no keyring yet, on the disk of that stage."""
        platform: RootPlatform = site.platform()
        tee, measurement = platform.own_measurement()
        keys = site.keys(self.stage.setup.ways)
        return Joiner(
            platform=platform,
            tee=tee,
            measurement=measurement,
            settings_digest=self.in_force(site).settings_digest,
            policy=self.policy,
            policy_version=POLICY_VERSION,
            terms=site.terms,
            slot_keys=keys,
            own=tuple(key for key in keys if key.slot_class in FIRST_FACTORS),
            collateral=ProviderCollateral.behind(self._verifier()),
            file=stage.file(system),
            clock=lambda: NOW,
        )

    def action(self, kind: ActionKind, giver: Giving, parameters: Parameters) -> bytes:
        """What both operators signed."""
        identity = giver.desk.attested.identity
        assert identity.policy_root is not None
        return self.approvers.action(
            Action(
                kind=kind,
                policy_root=identity.policy_root,
                keyring_id=identity.keyring_id,
                action_id=secrets.token_bytes(16),
                issued_at=NOW,
                expires_at=NOW + 3600,
                parameters=parameters,
            )
        )

    def invitation(
        self, giver: Giving, joiner: Joiner, *, tenant: str | None = None
    ) -> bytes:
        """An invitation of that provider by this one."""
        parameters = InviteParameters(
            giver=ProviderParts.of(giver.desk.attested.identity),
            joiner=ProviderParts(
                joiner.tee, joiner.measurement, joiner.settings_digest
            ),
            counter=giver.desk.keeper.keyring.header.counter,
            tenant=tenant,
        )
        return self.action(ActionKind.INVITE_PROVIDER, giver, parameters)

    def join(self, giver: Giving, joiner: Joiner, invitation: bytes) -> Joined:
        """The product's own."""
        return join(joiner, giver, invitation, done=lambda _step, _what: None)

    def _verifier(self) -> Verifier:
        world = self.stage.site.world
        return EvidenceVerifier(
            roots=with_simulated(VENDOR_ROOTS, world.intel.root_certificate),
            source=WorldSource(world),
            cache=ResultCache(64),
        )
