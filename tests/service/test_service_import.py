# SPDX-License-Identifier: Apache-2.0
"""Leaving a legacy sidecar: its key, imported by its workload into another provider."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import msgspec
import pytest
import structlog
from nacl.public import PrivateKey, SealedBox
from service_harness import ask_framed

from tightseal.cli import main
from tightseal.errors import ProviderError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.pins import ProviderPin, pin_to_toml
from tightseal.guest.released import ReleasedKey
from tightseal.model.action import Action, ActionKind, KeyringParameters
from tightseal.model.base64url import decode_base64url
from tightseal.model.keypath import IdentityKind, KeyRequest
from tightseal.policy.document import KeyRules, Source
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.sources import WorldSource

MACHINE = "machine-a"
TAKEN_OVER_SECONDS = 15.0

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("import")) as scene:
        yield scene


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def launched(scene: Scene) -> SimTd:
    return scene.world.intel.platform(MACHINE).launch_td(TdImage())


def legacy_key(provider: Provider, td: SimTd) -> bytes:
    """As the guest of a legacy sidecar: one frame each way, a sealed box."""
    secret = PrivateKey.generate()
    quote = td.evidence(bytes(secret.public_key).ljust(64, b"\0"))
    answer = ask_framed(
        provider.framed[1], json.dumps({"quote": list(quote)}).encode(), timeout=30
    )
    return SealedBox(secret).decrypt(bytes(json.loads(answer[4:])["encrypted_key"]))


def document(scene: Scene, td: SimTd) -> str:
    """The workload by name, with one purpose that imports."""
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
        label="2026-10",
        purpose="disk",
    )
    rules = parse(text).document.workload[0]
    key = KeyRules(purpose="disk", source=Source.WRAPPED, imports=True)
    return render((msgspec.structs.replace(rules, key=(key,)),))


def operators(approvers: Approvers) -> str:
    keys = ", ".join(f'"{key.public_key.hex()}"' for key in approvers.keys)
    return f"""version = 1
[[role]]
name = "operators"
threshold = 2
keys = [{keys}]
actions = ["rotate-keyring"]
"""


def rotation(provider: Provider, approvers: Approvers) -> bytes:
    """A signed action that rotates the root of a running provider."""
    said = httpx.get(f"{provider.url}/v1/info", trust_env=False).json()
    now = int(time.time())
    asked = Action(
        kind=ActionKind.ROTATE_KEYRING,
        policy_root=approvers.policy_root,
        keyring_id=pin_of(provider).identity.keyring_id,
        action_id=b"i" * 16,
        issued_at=now,
        expires_at=now + 3600,
        parameters=KeyringParameters(said["keyring"]["counter"], None),
    )
    return approvers.action(asked)


def pin_of(provider: Provider) -> ProviderPin:
    said = httpx.get(f"{provider.url}/v1/info", trust_env=False).json()
    text = said["identity"]["keyring_id"]
    keyring_id = decode_base64url(text, field="keyring_id", max_bytes=32)
    return replace(
        provider.pin, identity=replace(provider.pin.identity, keyring_id=keyring_id)
    )


def disk(scene: Scene, provider: Provider) -> ReleasedKey:
    pin = pin_of(provider)
    with scene.client(provider, launched(scene), pin=pin) as client:
        return client.keys(KeyRequest("disk")).key("disk")


def command(scene: Scene, provider: Provider, folder: Path) -> list[str]:
    pin, root = folder / "pin.toml", folder / "root.der"
    pin.write_text(pin_to_toml(pin_of(provider)))
    root.write_bytes(scene.world.intel.root_certificate)
    return [
        *("key", "--provider", provider.url, "--pin", str(pin), "--platform", "sim"),
        *("--option", f"world={scene.folder / 'world'}"),
        *("--option", f"platform={MACHINE}", "--option", "tee=tdx"),
        *("--root-ca", str(root), "--pccs", scene.pccs_url, "--purpose", "disk"),
    ]


def test_a_key_moves_from_a_legacy_sidecar_and_stays(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fetched over the framed protocol, imported by the command, and found again after
    a restart and after a rotation."""
    td = launched(scene)
    old = scene.provider("old", release={"legacy": {"enabled": True}})
    key = legacy_key(old, td)
    old.stop()
    file, out = tmp_path / "old.key", tmp_path / "new.key"
    file.write_bytes(key)

    approvers = Approvers()
    settings = {
        "policy_root": approvers.policy_root,
        "release": {"root": "keyring"},
        "host": {"keyring": {"create": True}},
    }
    documents = {"d": document(scene, td), "roles": operators(approvers)}
    bundle = approvers.bundle(documents)
    new = scene.provider("new", bundle=bundle, **settings)
    arguments = command(scene, new, tmp_path)
    assert main([*arguments, "--import", str(file), "--out", str(out)]) == 0
    assert "imported" in (shown := capsys.readouterr()).out
    assert key.hex() not in shown.out + shown.err
    assert out.read_bytes() == key
    assert main([*arguments, "--import", str(file)]) == 1
    assert "key_exists" in capsys.readouterr().err
    assert disk(scene, new).generation == 1

    new.stop()
    again = scene.provider("new", bundle=bundle, **settings)
    assert disk(scene, again).secret.reveal() == key
    assert again.act(rotation(again, approvers)).status_code == 200
    until = time.monotonic() + TAKEN_OVER_SECONDS
    while (opened := disk(scene, again)).generation != 2:
        assert opened.secret.reveal() == key
        assert time.monotonic() < until, "not taken over"
        time.sleep(0.2)
    assert opened.secret.reveal() == key
    again.stop()
    for place in (again.log, *again.log.parent.rglob("*")):
        if place.is_file():
            assert key not in place.read_bytes()


def test_nobody_else_gets_the_key_from_the_legacy_sidecar(scene: Scene) -> None:
    """Nor from the new one: another image is another workload."""
    old = scene.provider("older", release={"legacy": {"enabled": True}})
    other = scene.world.intel.platform(MACHINE).launch_td(TdImage(kernel=b"other"))
    assert legacy_key(old, launched(scene)) != legacy_key(old, other)
    old.stop()
    approvers = Approvers()
    new = scene.provider(
        "newer",
        policy_root=approvers.policy_root,
        bundle=approvers.bundle({"d": document(scene, launched(scene))}),
    )
    with (
        scene.client(new, other) as client,
        pytest.raises(ProviderError, match="measurements_not_accepted"),
    ):
        client.key("disk", create=True)
    new.stop()
