# SPDX-License-Identifier: Apache-2.0
"""The demonstration's third part: a keyring, and another machine that takes it over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tightseal.errors import Code, PlatformError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.action import ActionKind
from tightseal.model.action_file import parse_action
from tightseal.model.keypath import IdentityKind
from tightseal.model.settings import PlatformRule
from tightseal.policy.document import RoleRules, WorkloadRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal_sim.approvers import Approvers
from tightseal_sim.demo_report import Report, fetch, fingerprint
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.sources import WorldSource

if TYPE_CHECKING:
    from tightseal_sim.intel.td import SimTd, TdImage
    from tightseal_sim.scene import Provider, Scene

__all__ = ["show_handoff"]

OLD, NEW = "machine-a", "machine-b"
NEXT_IMAGE: Final = "tightseal-provider-2"
COMMAND_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class _Operators:
    """What two operators do: they sign, and run commands on both machines."""

    stage: Scene
    approvers: Approvers
    bundle: bytes

    def settings(self, name: str, *, machine: str, image: str, **host: Any) -> Path:
        """Settings of a provider with a keyring under the policy root."""
        return self.stage.configure(
            name,
            machine=machine,
            image=image,
            release={"root": "keyring"},
            host=host,
            policy_root=self.approvers.policy_root,
            bundle=self.bundle,
        )

    def invite(self, giver: Provider, config: Path, *, signers: int) -> Path:
        """An invitation of the provider of these settings, signed by so many."""
        known, out = config.parent / "identity.json", config.parent / f"{signers}.json"
        if not known.exists():
            _run("identity", "--config", config, "--out", known)
        _run("invite", "--from", giver.url, "--joiner", known, "--out", out)
        action = parse_action(out.read_bytes()).action
        out.write_bytes(self.approvers.action(action, signers=signers))
        return out

    def join(self, giver: Provider, config: Path, invitation: Path) -> dict[str, Any]:
        """What ``tightseal provider join`` says."""
        where = ("--config", config, "--invitation", invitation)
        return _run("join", "--from", giver.url, *where)


def show_handoff(report: Report, stage: Scene, image: TdImage) -> None:
    """Random roots, rotated by nobody's machine alone: the next version takes over."""
    report.heading("A keyring: the keys outlive version and machine")
    td = stage.world.intel.platform(OLD).launch_td(image)
    approvers = Approvers(2, threshold=2)
    bundle = approvers.bundle({"fleet": _document(stage, td, approvers)})
    operators = _Operators(stage, approvers, bundle)
    old = stage.start(
        operators.settings("old", machine=OLD, image="", keyring={"create": True})
    )
    keyring = _run_keyring("status", "--config", old.config)
    pinned = _pinned(old, bytes.fromhex(keyring["keyring_id"]))
    before = fingerprint(fetch(stage, pinned, td))
    report.say("a provider makes a keyring of random roots", before)
    config = operators.settings("new", machine=NEW, image=NEXT_IMAGE)
    _undersigned(report, operators, old, config)
    joined = operators.join(old, config, operators.invite(old, config, signers=2))
    report.say(
        "the next version joins on another machine, by evidence",
        f"{len(joined['slots'])} slots of its own",
        held=joined["confirmed"] and joined["keyring_id"] == keyring["keyring_id"],
    )
    old.process.kill()
    old.process.wait()
    report.say("the first machine is gone, with its disk and its processor")
    new = _pinned(stage.start(config), bytes.fromhex(joined["keyring_id"]))
    after = fingerprint(fetch(stage, new, td))
    report.say("the TD gets the same key from the new one", after, held=after == before)


def _undersigned(
    report: Report, operators: _Operators, giver: Provider, config: Path
) -> None:
    invitation = operators.invite(giver, config, signers=1)
    code = ""
    try:
        operators.join(giver, config, invitation)
    except PlatformError as error:
        code = Code.ACTION_UNDERSIGNED.value
        code = code if code in error.detail else error.detail
    held = code == Code.ACTION_UNDERSIGNED.value
    report.say("an invitation that one of two signed", f"refused: {code}", held=held)


def _pinned(provider: Provider, keyring_id: bytes) -> Provider:
    identity = replace(provider.pin.identity, keyring_id=keyring_id)
    return replace(provider, pin=replace(provider.pin, identity=identity))


def _document(stage: Scene, td: SimTd, approvers: Approvers) -> str:
    """The workload on any machine, two operators, and both versions of the provider."""
    verify = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, stage.world.intel.root_certificate),
        source=WorldSource(stage.world),
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
    workload: WorkloadRules = parse(text).document.workload[0]
    operators = RoleRules(
        name="operators",
        threshold=2,
        keys=tuple(key.public_key.hex() for key in approvers.keys),
        actions=(ActionKind.INVITE_PROVIDER,),
    )
    anywhere = msgspec.structs.replace(workload, platform=PlatformRule.ANY)
    domain = str(stage.world.intel.trusted_root.trust_domain)
    providers = "".join(
        f'\n[[provider]]\nname = "{name}"\ntee = "sgx"\n'
        f'measurements = ["{EnclaveImage(name=name).mr_enclave.hex()}"]\n'
        f'trust_domain = "{domain}"\n'
        for name in (PROVIDER_ENCLAVE, NEXT_IMAGE)
    )
    return render((anywhere,), (operators,)) + providers


def _run(*arguments: object) -> dict[str, Any]:
    return _command("provider", *arguments)


def _run_keyring(*arguments: object) -> dict[str, Any]:
    return _command("keyring", *arguments)


def _command(*arguments: object) -> dict[str, Any]:
    """A command as operators run it; what it says.

    Raises:
        PlatformError: ``platform_failed``, with what it complained of.
    """
    done = subprocess.run(  # noqa: S603 (our own program)
        [sys.executable, "-m", "tightseal", *map(str, arguments), "--json"],
        capture_output=True,
        check=False,
        timeout=COMMAND_SECONDS,
    )
    if done.returncode:
        raise PlatformError(Code.PLATFORM_FAILED, done.stderr.decode())
    document: dict[str, Any] = json.loads(done.stdout)
    return document
