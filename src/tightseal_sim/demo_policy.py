# SPDX-License-Identifier: Apache-2.0
"""The demonstration's second half: a signed policy, an upgrade, an explained denial."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import httpx
import msgspec

from tightseal.errors import Code
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.keypath import IdentityKind
from tightseal.policy.document import WorkloadRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal_sim.approvers import Approvers
from tightseal_sim.demo_report import Report, fetch, fingerprint
from tightseal_sim.sources import WorldSource

if TYPE_CHECKING:
    from tightseal_sim.intel.td import SimTd, TdImage
    from tightseal_sim.scene import Provider, Scene

__all__ = ["show_policy"]

MACHINE: Final = "machine-a"
LOG_SECONDS: Final = 5.0


def show_policy(report: Report, stage: Scene, image: TdImage) -> None:
    """A name that outlives measurements, and who may say what carries it."""
    report.heading("A signed policy: the key outlives the update")
    machine = stage.world.intel.platform(MACHINE)
    now, after = image, replace(image, kernel=b"the next kernel")
    running, upgraded = machine.launch_td(now), machine.launch_td(after)
    approvers = Approvers(2, threshold=2)
    first = {"database": _document(stage, {"2026-10": running})}
    bundle = approvers.bundle(first)
    provider = stage.provider(
        "rooted", policy_root=approvers.policy_root, bundle=bundle
    )
    report.say(
        "two of two approvers signed; the policy root is pinned",
        f"root {approvers.policy_root.hex()[:16]}",
    )
    before = fingerprint(fetch(stage, provider, running))
    report.say("the TD gets the key of its name", before)
    report.refused(
        "with a new kernel, not named in the policy yet",
        Code.MEASUREMENTS_NOT_ACCEPTED,
        lambda: fetch(stage, provider, upgraded),
    )
    _explained(report, provider)
    both = {"database": _document(stage, {"2026-10": running, "2026-11": upgraded})}
    _told(
        report,
        "a bundle that one of two approvers signed",
        provider.publish(approvers.bundle(both, signers=1)),
        refused=Code.BUNDLE_UNDERSIGNED,
    )
    _told(
        report,
        "a bundle with both images, signed by both",
        provider.publish(approvers.bundle(both)),
    )
    again = fingerprint(fetch(stage, provider, upgraded))
    report.say(
        "the new kernel under the same name gets the same key",
        again,
        held=again == before,
    )
    _told(
        report,
        "the older bundle, put back by the host",
        provider.publish(bundle),
        refused=Code.BUNDLE_ROLLED_BACK,
    )


def _document(stage: Scene, images: dict[str, SimTd]) -> str:
    """What ``tightseal policy from-evidence`` writes, with an image for each TD."""
    verify = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, stage.world.intel.root_certificate),
        source=WorldSource(stage.world),
        cache=ResultCache(64),
    )
    workloads: list[WorkloadRules] = []
    for label, td in images.items():
        text = from_claims(
            verify(td.evidence(bytes(64)), now=int(time.time())),
            tenant="acme",
            name="database",
            identity=IdentityKind.NAMED,
            label=label,
            purpose="disk",
        )
        workloads += parse(text).document.workload
    together = tuple(image for rules in workloads for image in rules.image)
    return render((msgspec.structs.replace(workloads[0], image=together),))


def _explained(report: Report, provider: Provider) -> None:
    """The operator's log says what the workload is not told."""
    why = ""
    until = time.monotonic() + LOG_SECONDS
    while not why and time.monotonic() < until:
        for line in provider.log.read_text().splitlines():
            entry = json.loads(line) if line.startswith("{") else {}
            if entry.get("code") == Code.MEASUREMENTS_NOT_ACCEPTED.value:
                why = str(entry["detail"]).partition(";")[0]
        time.sleep(0.05)
    report.say("the operator's log says why", why, held=why == "rtmr1 differs")


def _told(
    report: Report, text: str, answer: httpx.Response, *, refused: Code | None = None
) -> None:
    told = answer.json()
    if refused is None:
        version = told.get("policy_version")
        report.say(text, f"in force: version {version}", held=answer.is_success)
        return
    code = str(told.get("code"))
    report.say(text, f"refused: {code}", held=code == refused.value)
