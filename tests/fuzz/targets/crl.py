# SPDX-License-Identifier: Apache-2.0
"""CRLs as the verifier and the collateral store read them."""

from contextlib import suppress

from fuzz_scenes import NOW, cast

from tightseal.collateral.wire import crl_der, load_crl
from tightseal.errors import EvidenceError, TightsealError
from tightseal.evidence.intel.certs import parse_certificate
from tightseal.evidence.intel.crl import (
    check_crl_time,
    require_not_revoked,
    verify_crl,
)

INTEL = cast().bench.intel
ROOT = parse_certificate(INTEL.root.der, fault=EvidenceError)


def seeds() -> list[bytes]:
    crls = (INTEL.root_crl(NOW), INTEL.pck_crl("platform", NOW))
    return [crl.encode() for crl in crls]


def one(data: bytes) -> None:
    for read in (crl_der, load_crl):
        with suppress(TightsealError):
            read(data)
    crl = verify_crl(data, ROOT)
    check_crl_time(crl, now=NOW)
    require_not_revoked(ROOT, crl, fault=EvidenceError)
