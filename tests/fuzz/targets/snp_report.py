# SPDX-License-Identifier: Apache-2.0
"""SEV-SNP reports: parsing, naming certificates, and the whole verification."""

from contextlib import suppress

from tightseal.errors import TightsealError
from tightseal.evidence.inspect import inspect_evidence
from tightseal.evidence.snp.query import certificate_query
from tightseal.evidence.snp.report import parse_report
from tightseal.evidence.snp.verifier import verify_report
from tightseal_sim.amd import AmdWorld
from tightseal_sim.amd.bench import Bench

NOW = 1_780_000_000
WORLD = AmdWorld(None, bytes(32), rsa_bits=2048)
BENCHES = [Bench(WORLD, product, NOW) for product in ("Milan", "Genoa", "Turin")]


def seeds() -> list[bytes]:
    found = [bench.resigned(version=v) for bench in BENCHES for v in (2, 3, 5)]
    return [*found, BENCHES[0].resigned(chip_id=bytes(64))]


def one(data: bytes) -> None:
    bench = BENCHES[0]
    with suppress(TightsealError):
        inspect_evidence(data)
    with suppress(TightsealError):
        verify_report(data, bench.certificates, now=NOW, roots=bench.roots)
    certificate_query(parse_report(data))
