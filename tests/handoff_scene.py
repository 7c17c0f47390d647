# SPDX-License-Identifier: Apache-2.0
"""Real providers of one policy root on two simulated machines, and their operators."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from tightseal.guest.pins import RootedIdentity
from tightseal.guest.released import ReleasedKeys
from tightseal.model.action_file import parse_action
from tightseal.model.base64url import decode_base64url
from tightseal.model.keypath import KeyRequest
from tightseal.model.provider import branch_keyring_id
from tightseal_sim.approvers import Approvers
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene

NEXT_IMAGE = "tightseal-provider-2"
KEYRING = {"root": "keyring"}
MEASURED = ("mrtd", "rtmr0", "rtmr1", "rtmr2")


@dataclass
class Site:
    """One policy root: a provider with the keyring, and what its operators sign."""

    scene: Scene
    approvers: Approvers = field(default_factory=lambda: Approvers(2, threshold=2))
    images: tuple[str, ...] = (PROVIDER_ENCLAVE, NEXT_IMAGE)
    actions: tuple[str, ...] = ("invite-provider", "revoke-provider", "rotate-keyring")

    @property
    def domain(self) -> str:
        return str(self.scene.world.intel.trusted_root.trust_domain)

    def td(self, tenant: str, machine: str = "machine-a") -> SimTd:
        image = TdImage(kernel=f"kernel of {tenant}".encode())
        return self.scene.world.intel.platform(machine).launch_td(image)

    def document(self) -> str:
        keys = ", ".join(f'"{key.public_key.hex()}"' for key in self.approvers.keys)
        listed = ", ".join(f'"{action}"' for action in self.actions)
        lines = [
            "version = 1",
            *self._workload("acme"),
            *self._workload("umbrella"),
            f'[[role]]\nname = "operators"\nthreshold = 2\nkeys = [{keys}]',
            f"actions = [{listed}]",
        ]
        for image in self.images:
            measured = EnclaveImage(name=image).mr_enclave.hex()
            lines.append(
                f'[[provider]]\nname = "{image}"\ntee = "sgx"\n'
                f'measurements = ["{measured}"]\ntrust_domain = "{self.domain}"'
            )
        return "\n".join(lines) + "\n"

    def _workload(self, tenant: str) -> list[str]:
        measured = self.td(tenant).measurements
        return [
            f'[[workload]]\ntenant = "{tenant}"\nname = "database"',
            'identity = "named"\ntee = "tdx"\nplatform = "any"',
            f'trust_domain = "{self.domain}"',
            '[[workload.image]]\nlabel = "one"\n[workload.image.measurements]',
            *(f'{name} = "{measured[name].hex()}"' for name in MEASURED),
            '[[workload.key]]\npurpose = "disk"\n',
            '[[workload.key]]\npurpose = "kept"\nsource = "wrapped"\n',
        ]

    def bundle(self) -> bytes:
        return self.approvers.bundle({"fleet": self.document()})

    def configure(
        self, name: str, bundle: bytes, *, machine: str, image: str = "", **host: Any
    ) -> Path:
        """Settings of a provider that has no keyring yet."""
        return self.scene.configure(
            name,
            machine=machine,
            image=image,
            release=KEYRING,
            host=host,
            policy_root=self.approvers.policy_root,
            bundle=bundle,
        )

    def first(self, bundle: bytes, name: str = "first", **host: Any) -> Provider:
        """The provider that makes the keyring, on machine A."""
        host = {"keyring": {"create": True}, **host}
        return self.scene.start(
            self.configure(name, bundle, machine="machine-a", **host)
        )

    def sign(self, draft: Path, *, signers: int | None = None) -> Path:
        """What ``tightseal action sign`` makes of a draft, by all operators."""
        action = parse_action(draft.read_bytes()).action
        draft.write_bytes(self.approvers.action(action, signers=signers))
        return draft

    @staticmethod
    def keyring_id(provider: Provider) -> bytes:
        return keyring_id(provider)

    def key(
        self,
        provider: Provider,
        tenant: str,
        *requests: KeyRequest,
        branch_of: bytes | None = None,
    ) -> ReleasedKeys:
        """What a tenant's workload is given, on machine A."""
        found = keyring_id(provider)
        if branch_of is not None:
            assert found == branch_keyring_id(branch_of, tenant)
        identity = provider.pin.identity
        assert isinstance(identity, RootedIdentity)
        pin = replace(provider.pin, identity=replace(identity, keyring_id=found))
        with self.scene.client(provider, self.td(tenant), pin=pin) as client:
            return client.keys(*(requests or (KeyRequest("disk"),)))


def keyring_id(provider: Provider) -> bytes:
    text = info(provider)["identity"]["keyring_id"]
    return decode_base64url(text, field="keyring_id", max_bytes=32)


def info(provider: Provider) -> dict[str, Any]:
    answer = httpx.get(f"{provider.url}/v1/info", trust_env=False)
    document: dict[str, Any] = answer.json()
    return document
