# SPDX-License-Identifier: Apache-2.0
"""A provider's life with all its secrets known: keyring, policy, guests, operators."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import msgspec
from secret_search import Wire
from service_harness import until

from tightseal.errors import TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.client import Client
from tightseal.guest.pins import ProviderPin, pin_to_toml
from tightseal.keys.keyring import Keyring, prepare, rotate
from tightseal.keys.keyring.generation import open_root
from tightseal.model.action import Action, ActionKind, KeyringParameters
from tightseal.model.keypath import IdentityKind, KeyRequest
from tightseal.model.labels import Label
from tightseal.model.ports import RootPlatform
from tightseal.platform.door import open_platform
from tightseal.policy.document import KeyRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal.release.keyring import KeyringKeeper
from tightseal.service.load import load_settings
from tightseal.service.roots import ways_of
from tightseal.service.settings import Settings
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.sources import WorldSource

MACHINE = "machine-a"
PASSPHRASE = b"nobody should ever read these words"
KEYS = (
    {"purpose": "disk"},
    {"purpose": "vault", "source": "wrapped"},
    {"purpose": "sign", "type": "ed25519", "published": True},
)
ROLE = """version = 1
[[role]]
name = "keepers"
threshold = 2
keys = [{keys}]
actions = ["rotate-keyring", "destroy-generation"]
"""


def document(scene: Scene, td: SimTd) -> str:
    """A named workload with a derived key, a wrapped one and a pair."""
    verify = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate),
        source=WorldSource(scene.world),
        cache=ResultCache(64),
    )
    text = from_claims(
        verify(td.evidence(bytes(64)), now=int(time.time())),
        tenant="acme",
        name="database",
        identity=IdentityKind.NAMED,
        label="first",
        purpose="disk",
    )
    rules = parse(text).document.workload[0]
    keys = tuple(msgspec.convert(key, KeyRules) for key in KEYS)
    return render((msgspec.structs.replace(rules, key=keys),))


def roots_of(keyring: Keyring) -> dict[int, bytes]:
    """Every root that a keyring still has, those of the future too."""
    key, keyring_id = keyring.key, keyring.header.keyring_id
    return {
        generation.number: open_root(
            generation, key=key, keyring_id=keyring_id
        ).reveal()
        for generation in keyring.generations
        if generation.living
    }


@dataclass
class HushedRun:
    """A provider over a keyring under a policy root, and all that it says.

    Attributes:
        scene: where it stands; of this run alone.
        host: host settings besides its own.
        said: what commands printed, and other output besides the log.
        wire: what clients and provider told each other.
        released: keys that guests got.
        logs: of providers that were stopped.
        running: files as they were while it ran.
    """

    scene: Scene
    workers: int = 2
    host: dict[str, Any] = field(default_factory=dict)
    approvers: Approvers = field(default_factory=Approvers)
    said: list[bytes] = field(default_factory=list)
    wire: Wire = field(default_factory=Wire)
    released: dict[str, bytes] = field(default_factory=dict)
    logs: list[bytes] = field(default_factory=list)
    running: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.td = self.scene.world.intel.platform(MACHINE).launch_td(TdImage())
        (self.scene.folder / "passphrase").write_bytes(PASSPHRASE + b"\n")
        self.provider = self.start()

    def start(self) -> Provider:
        """Start it, with every log level on."""
        keys = ", ".join(f'"{key.public_key.hex()}"' for key in self.approvers.keys)
        documents = {
            "workload": document(self.scene, self.td),
            "roles": ROLE.format(keys=keys),
        }
        return self.scene.provider(
            "hushed",
            machine=MACHINE,
            release={"root": "keyring"},
            host={
                "workers": self.workers,
                "log": {"level": "debug"},
                "keyring": {
                    "create": True,
                    "passphrase_file": str(self.scene.folder / "passphrase"),
                },
                **self.host,
            },
            policy_root=self.approvers.policy_root,
            bundle=self.approvers.bundle(documents),
        )

    # -- what only the test knows -------------------------------------------------

    @cached_property
    def settings(self) -> Settings:
        return load_settings(self.provider.config)

    @cached_property
    def platform(self) -> RootPlatform:
        kind = self.settings.host.platform
        return open_platform(kind.kind.value, kind.options())

    def keyring(self) -> Keyring:
        """As the provider opens it."""
        return KeyringKeeper(ways_of(self.settings, self.platform)).keyring

    def secrets(self) -> dict[str, bytes]:
        """Everything that must not be seen, by name."""
        keyring = self.keyring()
        own = {
            "keyring key": keyring.key,
            "key of the guard": keyring.derive(Label.KDF_COLLATERAL_GUARD, None),
            "key of the store": keyring.derive(
                Label.KDF_STATE_STORE, self.settings.release.policy_root
            ),
            "sealing key": self.platform.sealing_key(),
        }
        shown = {name: secret.reveal() for name, secret in own.items()}
        roots = {f"root {number}": root for number, root in roots_of(keyring).items()}
        return {**shown, **roots, "passphrase": PASSPHRASE, **self.released}

    # -- guests and operators -----------------------------------------------------

    @cached_property
    def pin(self) -> ProviderPin:
        keyring_id = self.keyring().header.keyring_id
        pinned = replace(self.provider.pin.identity, keyring_id=keyring_id)
        return replace(self.provider.pin, identity=pinned)

    def client(self, td: SimTd | None = None) -> Client:
        return self.scene.client(
            self.provider, td or self.td, pin=self.pin, transport=self.wire
        )

    def release(self, name: str, request: KeyRequest) -> bytes:
        """Get a key, which is a secret from then on."""
        with self.client() as client:
            keys = client.keys(request)
            got = keys.key(request.purpose, generation=request.generation)
            self.released[name] = got.secret.reveal()
        return self.released[name]

    def refused(self, attempt: Callable[[], object]) -> None:
        """Try what must fail; whatever the error shows is kept."""
        try:
            attempt()
        except TightsealError as e:
            self.said += [str(e).encode(), repr(e).encode(), e.detail.encode()]
        else:
            raise AssertionError("not refused")

    def ask(self, method: str, path: str, body: bytes = b"") -> httpx.Response:
        """Any request, on the record."""
        url = f"{self.provider.url}{path}"
        with httpx.Client(transport=self.wire, timeout=30.0) as client:
            return client.request(method, url, content=body)

    def act(self, kind: ActionKind, generation: int | None = None) -> None:
        """What operators sign, again until the worker has seen the newest keyring."""

        def done() -> bool:
            answer = self.ask("POST", "/v1/actions", self.signed(kind, generation))
            assert answer.status_code in {200, 409}, answer.text
            return answer.status_code == 200

        until(done, 15)

    def signed(self, kind: ActionKind, generation: int | None = None) -> bytes:
        header, now = self.keyring().header, int(time.time())
        action = Action(
            kind=kind,
            policy_root=self.approvers.policy_root,
            keyring_id=header.keyring_id,
            action_id=os.urandom(16),
            issued_at=now,
            expires_at=now + 600,
            parameters=KeyringParameters(header.counter, generation),
        )
        return self.approvers.action(action)

    def command(self, *arguments: object, stdin: bytes = b"") -> int:
        """A command as operators run it, in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "tightseal", *(str(a) for a in arguments)],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
        )
        self.said += [done.stdout, done.stderr]
        return done.returncode

    def keyring_command(self, *arguments: object, config: Path | None = None) -> None:
        """``tightseal keyring`` in text and as JSON."""
        named = ("--config", config or self.provider.config)
        for form in ((), ("--json",)):
            self.command("keyring", *arguments, *named, *form)

    def aside(self) -> Path:
        """Settings of a keyring of its own, which no policy root guards."""
        state = str(self.provider.settings.host.state_dir)
        guarded = ("policy_root", "policy_bundle")
        kept = [
            line.replace(state, str(self.scene.folder / "aside"))
            for line in self.provider.config.read_text().splitlines()
            if not line.startswith(guarded)
        ]
        config = self.scene.folder / "aside.toml"
        config.write_text("\n".join(kept))
        return config

    def keep_aside(self, config: Path) -> None:
        """Take the secrets of a keyring aside among those that must not be seen."""
        settings = load_settings(config)
        keyring = KeyringKeeper(ways_of(settings, self.platform)).keyring
        self.released["keyring key aside"] = keyring.key.reveal()
        for number, root in roots_of(keyring).items():
            self.released[f"root {number} aside"] = root

    def key_command(self, *more: str) -> int:
        """``tightseal key`` for the disk."""
        folder = self.scene.folder
        (folder / "pin.toml").write_text(pin_to_toml(self.pin))
        (folder / "root.pem").write_text(self.scene.root_pem())
        return self.command(
            *("key", "--provider", self.provider.url, "--purpose", "disk"),
            *("--pin", folder / "pin.toml", "--root-ca", folder / "root.pem"),
            *("--pccs", self.scene.pccs_url, "--platform", "sim"),
            *("--option", f"world={folder / 'world'}", "--option", "tee=tdx"),
            *("--option", f"platform={MACHINE}", *more),
        )

    # -- what there is to look at ---------------------------------------------------

    def log_lines(self) -> list[dict[str, Any]]:
        """The provider's own lines; helpers of its interpreter write others."""
        lines = self.provider.log.read_text().splitlines()
        return [json.loads(line) for line in lines if line[:1] + line[-1:] == "{}"]

    def wait_for(self, event: str) -> None:
        """Until a line of the log says so."""
        until(lambda: any(x["event"] == event for x in self.log_lines()), 30)

    def stop(self) -> None:
        """End the provider; its log is kept, since the next one starts its own."""
        self.provider.stop()
        self.logs.append(self.provider.log.read_bytes())

    def files(self) -> list[Path]:
        """All that the run left on disk, except what is its input."""
        inputs = {"passphrase", "world"}
        return [
            path
            for path in self.scene.folder.rglob("*")
            if path.is_file()
            and path.relative_to(self.scene.folder).parts[0] not in inputs
        ]

    def break_keyring(self) -> None:
        """A host that damages the file while the provider runs, and puts it back."""
        file = self.settings.host.keyring_path
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        self.wait_for("keyring_not_taken")
        file.write_bytes(whole)

    def rotate_twice(self) -> None:
        """By signed action, and by a command beside the running provider."""
        self.act(ActionKind.ROTATE_KEYRING)
        keeper = KeyringKeeper(ways_of(self.settings, self.platform))
        now = int(time.time())
        keeper.change(lambda keyring: prepare(keyring, now=now))
        keeper.change(lambda keyring: rotate(keyring, now=now))
        keeper.change(lambda keyring: prepare(keyring, now=now))
