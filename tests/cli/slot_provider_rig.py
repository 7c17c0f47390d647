# SPDX-License-Identifier: Apache-2.0
"""A keyring whose provider has a slot at another provider, which really runs."""

import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from cli_support import Said, run
from tightseal.guest.pins import ProviderPin
from tightseal.model.base64url import decode_base64url
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id
from tightseal.model.slots import SlotClass
from tightseal.platform.door import open_platform
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.load import load_settings
from tightseal.service.ownkeyring import with_slot
from tightseal.service.roots import OwnRoots, open_roots, ways_of
from tightseal.service.slotkeys import own_slots
from tightseal_sim.scene import Provider, Scene, free_port

ADD = ("slot", "add", "--class", "provider", "--label", "other")


def pin_table(pin: ProviderPin) -> dict[str, Any]:
    """The pin as release settings have it."""
    identity = pin.identity
    sidecar = identity.keyring_id == sidecar_keyring_id()
    table: dict[str, Any] = {
        "measurement": identity.measurement.hex(),
        "keyring_id": "sidecar" if sidecar else identity.keyring_id.hex(),
        "trust_domains": sorted(pin.trust_domains),
        "allow_simulated": True,
    }
    if identity.policy_root is not None:
        table["policy_root"] = identity.policy_root.hex()
    if isinstance(identity, ProviderIdentity):
        table["settings_digest"] = identity.settings_digest.hex()
    return table


def pin_of(provider: Provider) -> ProviderPin:
    """Its pin, with the keyring that it made."""
    said = httpx.get(f"{provider.url}/v1/info", trust_env=False).json()
    text = said["identity"]["keyring_id"]
    keyring_id = decode_base64url(text, field="keyring_id", max_bytes=32)
    identity = replace(provider.pin.identity, keyring_id=keyring_id)
    return replace(provider.pin, identity=identity)


class Place:
    """Settings and state of the provider whose keyring it is."""

    def __init__(self, scene: Scene, folder: Path, *, machine: str) -> None:
        folder.mkdir()
        self.scene = scene
        self.folder = folder
        self.machine = machine
        self.config = folder / "tightseal.toml"
        self.file = folder / "state" / "keyring.tsk"
        self.secret = folder / "passphrase"
        self.secret.write_text("correct horse battery staple")
        scene.world.intel.platform(machine)

    def configure(
        self,
        *,
        url: str = "",
        pin: Mapping[str, Any] | None = None,
        bundle: bytes | None = None,
        policy_root: bytes | None = None,
        **release: Any,
    ) -> None:
        """Write the settings file; a policy root leaves the pin to the bundle."""
        root = base64.b64encode(self.scene.world.intel.root_certificate).decode()
        world = str(self.scene.folder / "world")
        released = {"root": "keyring", "simulated_roots": [root], **release}
        if policy_root is not None:
            released["policy_root"] = policy_root.hex()
        host: dict[str, Any] = {
            "state_dir": str(self.folder / "state"),
            "platform": {"kind": "sim", "world": world, "machine": self.machine},
            "collateral": {"pccs": [self.scene.pccs_url]},
            "keyring": {"provider": {"url": url, "seconds": 5.0}} if url else {},
        }
        if bundle is not None:
            path = self.folder / "policy.tsb"
            path.write_bytes(bundle)
            host["policy_bundle"] = str(path)
        if pin is not None:
            released["slot_provider"] = pin
        self.config.write_text(
            f"[host]\n{table_text(host)}\n[release]\n{table_text(released)}\n"
        )

    def run(self, *arguments: object) -> Said:
        return run("keyring", *arguments, "--config", self.config)

    def done(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        said = self.run(*arguments, "--json")
        assert said.status == status, said
        return said.document

    def refused(self, *arguments: object) -> str:
        said = self.run(*arguments)
        assert (said.status, said.stdout) == (1, ""), said
        return said.stderr

    def slots(self, *more: object, status: int = 0) -> dict[str, dict[str, Any]]:
        found = self.done("slot", "test", *more, status=status)["slots"]
        return {slot["label"]: slot for slot in found}

    def add(self, *classes: SlotClass, label: str, signer: bool = False) -> None:
        """As a provider under a policy root does it, by a signed action."""
        settings = load_settings(self.config)
        kind = settings.host.platform
        platform = open_platform(kind.kind.value, kind.options())
        slot_key = own_slots(settings, platform).choose(*classes, signer=signer)
        change = partial(with_slot, slot_key=slot_key, label=label, now=1)
        KeyringKeeper(ways_of(settings, platform)).change(change)

    def start(self) -> OwnRoots:
        """What a provider does at its start: open, and make anew what is due."""
        settings = load_settings(self.config)
        kind = settings.host.platform
        platform = open_platform(kind.kind.value, kind.options())
        return open_roots(settings, platform, now=1)

    def update_microcode(self) -> None:
        self.scene.world.intel.platform(self.machine).microcode_update()


def table_text(values: Mapping[str, Any]) -> str:
    """The lines of one TOML table."""
    return "\n".join(f"{name} = {_value(item)}" for name, item in values.items())


def nobody() -> str:
    """An address where nobody answers."""
    return f"http://127.0.0.1:{free_port()}"


def _value(item: Any) -> str:
    if isinstance(item, Mapping):
        return "{ " + ", ".join(f"{k} = {_value(v)}" for k, v in item.items()) + " }"
    if isinstance(item, list):
        return "[" + ", ".join(_value(v) for v in item) + "]"
    return json.dumps(item)
