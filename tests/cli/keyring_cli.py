# SPDX-License-Identifier: Apache-2.0
"""An operator inside a provider's TEE, with its settings file and its keyring."""

import base64
import json
from pathlib import Path
from typing import Any

from cli_support import Said, run
from tightseal.keys.keyring import Keyring
from tightseal.model.ports import RootPlatform
from tightseal.platform.door import open_platform
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.load import load_settings
from tightseal.service.roots import ways_of
from tightseal.service.settings import Settings
from tightseal_sim.world import World

PASSPHRASE = "correct horse battery staple"


class Operator:
    """One provider's place: a simulated machine, settings, a folder of state."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.world = World.create(place / "world")
        self.config = place / "tightseal.toml"
        self.secret = place / "passphrase"
        self.secret.write_text(PASSPHRASE + "\n")
        self.file = place / "state" / "keyring.tsk"
        self.previous = place / "state" / "keyring.tsk.previous"
        self.said: list[Said] = []
        self.configure()

    def configure(
        self,
        *,
        machine: str = "machine-a",
        keyring: str = "",
        release: str = 'root = "keyring"',
    ) -> None:
        self.world.intel.platform(machine)
        root = base64.b64encode(self.world.intel.root_certificate).decode()
        world = json.dumps(str(self.place / "world"))
        self.config.write_text(
            f"[host]\nstate_dir = {json.dumps(str(self.place / 'state'))}\n"
            f'platform = {{ kind = "sim", world = {world}, machine = "{machine}" }}\n'
            f"keyring = {{ {keyring} }}\n"
            f'[release]\nsimulated_roots = ["{root}"]\n{release}\n'
        )

    def run(self, *arguments: object, stdin: bytes = b"") -> Said:
        said = run("keyring", *arguments, "--config", self.config, stdin=stdin)
        self.said.append(said)
        return said

    def done(self, *arguments: object, status: int = 0) -> dict[str, Any]:
        """The document of a command that did its work."""
        said = self.run(*arguments, "--json")
        assert said.status == status, said.stderr
        return said.document

    def refused(self, *arguments: object, stdin: bytes = b"") -> str:
        """What a command that is refused says; nothing changes."""
        before = self.file.read_bytes() if self.file.exists() else None
        said = self.run(*arguments, stdin=stdin)
        assert said.status == 1, said
        assert said.stdout == ""
        assert before == (self.file.read_bytes() if self.file.exists() else None)
        return said.stderr

    def usage(self, *arguments: object) -> str:
        said = self.run(*arguments)
        assert (said.status, said.stdout) == (2, "")
        return said.stderr

    def settings(self) -> Settings:
        return load_settings(self.config)

    def platform(self) -> RootPlatform:
        kind = self.settings().host.platform
        return open_platform(kind.kind.value, kind.options())

    def keyring(self) -> Keyring:
        """As the provider of these settings opens it."""
        return KeyringKeeper(ways_of(self.settings(), self.platform())).keyring

    def slots(self, *more: object, status: int = 0) -> dict[str, dict[str, Any]]:
        """Every slot by its label, each tried."""
        found = self.done("slot", "test", *more, status=status)["slots"]
        return {slot["label"]: slot for slot in found}
