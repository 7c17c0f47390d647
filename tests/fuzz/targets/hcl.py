# SPDX-License-Identifier: Apache-2.0
"""The blob in which Azure's paravisor wraps a report."""

from contextlib import suppress

from tightseal.errors import TightsealError
from tightseal.evidence.inspect import inspect_evidence
from tightseal.evidence.snp.hcl import parse_hcl
from tightseal.evidence.snp.verifier import verify_report
from tightseal_sim.amd import AmdWorld
from tightseal_sim.amd.bench import RUNTIME_CLAIMS, Bench

NOW = 1_780_000_000
BENCH = Bench(AmdWorld(None, bytes(32), rsa_bits=2048), "Genoa", NOW)


def seeds() -> list[bytes]:
    guest = BENCH.guest
    return [guest.hcl_evidence(RUNTIME_CLAIMS), guest.hcl_evidence(b"{}") + bytes(64)]


def one(data: bytes) -> None:
    with suppress(TightsealError):
        inspect_evidence(data)
    with suppress(TightsealError):
        verify_report(data, BENCH.certificates, now=NOW, roots=BENCH.roots)
    parse_hcl(data)
