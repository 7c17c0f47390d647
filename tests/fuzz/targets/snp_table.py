# SPDX-License-Identifier: Apache-2.0
"""The certificate table behind an SEV-SNP report."""

from contextlib import suppress

from tightseal.errors import TightsealError
from tightseal.evidence.snp.extended import parse_table
from tightseal.evidence.snp.query import embedded_certificates
from tightseal.evidence.snp.verifier import verify_report
from tightseal_sim.amd import AmdWorld, table
from tightseal_sim.amd.bench import Bench

NOW = 1_780_000_000
BENCH = Bench(AmdWorld(None, bytes(32), rsa_bits=2048), "Milan", NOW)


def seeds() -> list[bytes]:
    chain = BENCH.certificates
    short = [(table.VCEK, b"\x30\x03\x02\x01\x05")]
    return [
        table.certificate_table(chain, vlek=False),
        table.certificate_table(chain, vlek=True),
        table.encode_table(short),
    ]


def one(data: bytes) -> None:
    evidence = BENCH.report + data
    with suppress(TightsealError):
        found = embedded_certificates(evidence)
        verify_report(evidence, found or BENCH.certificates, now=NOW, roots=BENCH.roots)
    parse_table(data)
