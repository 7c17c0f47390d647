# SPDX-License-Identifier: Apache-2.0
"""``make demo``: the main job end to end, in a simulated world, with what is refused.

Every line is an expectation: the demonstration fails where one does not hold.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from rich.markup import escape

from tightseal.collateral.bundle import FileSource
from tightseal.errors import Code, TightsealError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Claims
from tightseal.model.wire import CHALLENGE_PATH, KEYS_PATH
from tightseal_sim.demo_handoff import show_handoff
from tightseal_sim.demo_policy import show_policy
from tightseal_sim.demo_report import Report, fetch, fingerprint
from tightseal_sim.intel.td import TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.sources import WorldSource

if TYPE_CHECKING:
    from tightseal_sim.intel.td import SimTd

__all__ = ["main"]


class Tamper(httpx.BaseTransport):
    """The host between workload and provider: it carries, keeps and changes bytes."""

    def __init__(self, change: Callable[[str, bytes], bytes] | None = None) -> None:
        self._inner = httpx.HTTPTransport()
        self._change = change or (lambda _path, body: body)
        self.requests: dict[str, bytes] = {}
        self.responses: dict[str, bytes] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Forward one request, and show the answer to ``change``."""
        path = request.url.path
        self.requests[path] = request.read()
        answer = self._inner.handle_request(request)
        body = answer.read()
        self.responses[path] = body
        kind = answer.headers.get("content-type", "application/json")
        changed = self._change(path, body) if answer.status_code == 200 else body  # noqa: PLR2004
        return httpx.Response(
            answer.status_code,
            headers={"content-type": kind},
            stream=httpx.ByteStream(changed),
        )


def _world(report: Report, stage: Scene, provider: Provider) -> None:
    report.heading("A simulated world, and a provider in an SGX enclave")
    root = stage.world.intel.trusted_root.trust_domain.root_key_id
    report.say("a world with its own root, PCCS and two machines", f"root {root[:16]}")
    identity = provider.pin.identity
    report.say(
        "the provider is ready; its identity is pinned in advance",
        f"mrenclave {identity.measurement.hex()[:16]}",
    )


def _verify(report: Report, stage: Scene, td: SimTd) -> None:
    report.heading("A TD boots and proves what it runs")
    report.say("the TD is measured", f"mrtd {td.measurements['mrtd'].hex()[:16]}")
    verifier = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, stage.world.intel.root_certificate),
        source=WorldSource(stage.world),
        cache=ResultCache(64),
    )
    claims: Claims = verifier(td.evidence(bytes(64)), now=int(time.time()))
    status = claims.tcb.status.value if claims.tcb else "none"
    agreed = not claims.single_verifier
    report.say("its quote is verified by two verifiers that agree", status, held=agreed)


def _release(report: Report, stage: Scene, provider: Provider, image: TdImage) -> None:
    report.heading("The same workload gets the same key, and nobody else does")
    machine = stage.world.intel.platform("machine-a")
    first = fingerprint(fetch(stage, provider, machine.launch_td(image)))
    report.say("the TD gets its key, sealed to it alone", first)
    again = fingerprint(fetch(stage, provider, machine.launch_td(image)))
    report.say("after a restart it gets the same key", again, held=again == first)
    kernel = bytes([image.kernel[0] ^ 1]) + image.kernel[1:]
    changed = machine.launch_td(replace(image, kernel=kernel))
    other = fingerprint(fetch(stage, provider, changed))
    report.say(
        "with one changed bit of kernel it gets another", other, held=other != first
    )


def _refusals(report: Report, stage: Scene, provider: Provider, image: TdImage) -> None:
    report.heading("What is refused")
    machine = stage.world.intel.platform("machine-a")
    td = machine.launch_td(image)
    _replay(report, stage, provider, td)
    debug = machine.launch_td(replace(image, debug=True))
    report.refused(
        "a debug TD, which the host can read",
        Code.DEBUG_ENABLED,
        lambda: fetch(stage, provider, debug),
    )
    elsewhere = stage.world.intel.platform("machine-b").launch_td(image)
    report.refused(
        "the same TD on another machine",
        Code.PLATFORM_MISMATCH,
        lambda: fetch(stage, provider, elsewhere),
    )
    _relay(report, stage, provider, td)

    def flip(path: str, body: bytes) -> bytes:
        if path != KEYS_PATH:
            return body
        document: dict[str, Any] = json.loads(body)
        envelope: str = document["envelopes"][0]
        first = "A" if envelope[0] != "A" else "B"
        document["envelopes"][0] = first + envelope[1:]
        return json.dumps(document).encode()

    report.refused(
        "a response that the host changed",
        Code.RESPONSE_INVALID,
        lambda: fetch(stage, provider, td, Tamper(flip)),
    )


def _replay(report: Report, stage: Scene, provider: Provider, td: SimTd) -> None:
    wire = Tamper()
    fetch(stage, provider, td, wire)
    request, response = wire.requests[KEYS_PATH], wire.responses[KEYS_PATH]
    address = provider.url + KEYS_PATH
    headers = {"content-type": "application/json"}
    retry = httpx.post(address, content=request, headers=headers, trust_env=False)
    report.say(
        "a retry, byte for byte, gets the same response",
        "counted once",
        held=retry.content == response,
    )
    replayed = httpx.post(
        address, content=request + b" ", headers=headers, trust_env=False
    )
    code = str(replayed.json().get("code"))
    held = code == Code.NONCE_REPLAYED.value
    report.say("a replayed request", f"refused: {code}", held=held)


def _relay(report: Report, stage: Scene, provider: Provider, td: SimTd) -> None:
    kept = Tamper()
    fetch(stage, provider, td, kept)
    old = kept.responses[CHALLENGE_PATH]

    def swap(path: str, body: bytes) -> bytes:
        return old if path == CHALLENGE_PATH else body

    report.refused(
        "a challenge relayed from another exchange",
        Code.CHALLENGE_INVALID,
        lambda: fetch(stage, provider, td, Tamper(swap)),
    )
    twin = stage.provider("twin", release={"nonce_life": 60})
    pinned = replace(twin, pin=provider.pin)
    report.refused(
        "the genuine provider with settings of the host's own",
        Code.PROVIDER_IDENTITY_MISMATCH,
        lambda: fetch(stage, pinned, td),
    )


def _real(report: Report, vectors: Path) -> None:
    index = vectors / "dcap" / "INDEX.json"
    if not index.is_file():
        report.console.print(
            f"\n[dim]No real quotes at {escape(str(vectors))}: that part is left out."
            "[/dim]"
        )
        return
    report.heading("Real Intel quotes, as of their time")
    for entry in json.loads(index.read_text()):
        verdict = entry.get("verdict") or {}
        if "now" not in verdict:
            continue
        got = _judge(vectors / "dcap" / entry["name"], verdict["now"])
        expected = verdict.get("status")
        held = got == expected if expected else got.startswith("refused")
        date = time.strftime("%Y-%m-%d", time.gmtime(verdict["now"]))
        report.say(f"{entry['name']} as of {date}", got, held=held)


def _judge(folder: Path, now: int) -> str:
    roots = VENDOR_ROOTS
    own_root = folder / "root_ca.der"
    try:
        if own_root.is_file():
            roots = with_simulated(roots, own_root.read_bytes())
        verifier = EvidenceVerifier(
            roots=roots,
            source=FileSource(folder / "collateral.json"),
            cache=ResultCache(64),
        )
        claims = verifier((folder / "quote.bin").read_bytes(), now=now)
    except TightsealError as error:
        return f"refused: {error.code.value}"
    return claims.tcb.status.value if claims.tcb else "authentic"


def main() -> int:
    """Run the demonstration; 0 where every expectation held."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=Path, default=Path("../shared/vectors"))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    report = Report(as_json=arguments.json)
    with tempfile.TemporaryDirectory() as folder, Scene(Path(folder)) as stage:
        try:
            provider = stage.provider()
            image = TdImage()
            td = stage.world.intel.platform("machine-a").launch_td(image)
            _world(report, stage, provider)
            _verify(report, stage, td)
            _release(report, stage, provider, image)
            _refusals(report, stage, provider, image)
            show_policy(report, stage, image)
            show_handoff(report, stage, image)
            _real(report, arguments.vectors)
        except TightsealError as error:
            report.say(str(error), f"remedy: {error.info.remedy}", held=False)
    return report.finish()


if __name__ == "__main__":
    raise SystemExit(main())
