# SPDX-License-Identifier: Apache-2.0
"""Chains of certificates: PEM, DER, roles, links, and AMD's endorsements."""

from contextlib import suppress

from fuzz_scenes import cast

from tightseal.errors import CollateralError, EvidenceError, TightsealError
from tightseal.evidence.intel.certs import decode_chain, parse_certificate
from tightseal.evidence.intel.chains import find_root, verify_pck_chain
from tightseal.evidence.snp.certs import parse_endorsement
from tightseal_sim.amd import AmdWorld

BENCH = cast().bench
ROOTS = (BENCH.intel.trusted_root,)
_, KNOWN = find_root(BENCH.intel.root.der, ROOTS, fault=EvidenceError)


def seeds() -> list[bytes]:
    chip = AmdWorld(None, bytes(32), rsa_bits=2048).chip("fuzz").certificates()
    return [
        BENCH.platform.pck_chain.encode(),
        BENCH.intel.tcb_signing_chain.encode(),
        BENCH.platform.pck.der,
        BENCH.intel.root.der,
        chip.signer,
        chip.intermediate,
    ]


def one(data: bytes) -> None:
    for parse in (_intel, parse_endorsement):
        with suppress(TightsealError):
            parse(data)
    ders = decode_chain(data, fault=CollateralError)
    for each in ders:
        parse_certificate(each, fault=CollateralError)
    find_root(ders[-1], ROOTS, fault=EvidenceError)
    verify_pck_chain(ders, KNOWN)


def _intel(data: bytes) -> None:
    parse_certificate(data, fault=EvidenceError)
