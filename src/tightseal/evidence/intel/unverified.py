# SPDX-License-Identifier: Apache-2.0
"""Which collateral a quote needs, read from its unverified certificate.

Good for naming a query and for nothing else: whoever made the quote chose it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from tightseal.errors import Code, EvidenceError
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.intel.certs import (
    Role,
    decode_chain,
    parse_certificate,
    require_role,
)
from tightseal.evidence.intel.chains import (
    PCK_CHAIN_ROLE,
    ca_kind,
    find_root,
    known_pck_chain,
    verify_pck_chain,
)
from tightseal.evidence.intel.pck import parse_pck_extension
from tightseal.evidence.intel.quote import (
    PCK_CHAIN_CERTIFICATION_DATA,
    UnverifiedQuote,
)
from tightseal.model.claims import Tee
from tightseal.model.roots import TrustedRoot

__all__ = ["CollateralQuery", "collateral_query", "require_chain"]


@dataclass(frozen=True, slots=True)
class CollateralQuery:
    """What to ask a source of collateral for.

    Attributes:
        fmspc: 6 bytes.
        ca: ``platform`` or ``processor``.
        tee: SGX or TDX.
    """

    fmspc: bytes
    ca: str
    tee: Tee


def collateral_query(
    quote: UnverifiedQuote,
    *,
    roots: tuple[TrustedRoot, ...] = (),
    cache: ResultCache | None = None,
) -> CollateralQuery:
    """Name the collateral that a quote needs. No signature is verified.

    Args:
        quote: a parsed quote.
        roots: as for ``verify_quote``; a chain that verified under one of them before
            is not parsed again.
        cache: where that is known from. Nothing unverified is put into it.

    Raises:
        EvidenceError: ``certification_data_unsupported``, ``certificate_malformed``,
            ``certificate_chain_too_long``, ``certificate_role_mismatch`` or
            ``pck_extension_invalid``.
    """
    if quote.certification_type != PCK_CHAIN_CERTIFICATION_DATA:
        detail = f"certification data type: got {quote.certification_type}, expected 5"
        raise EvidenceError(Code.CERTIFICATION_DATA_UNSUPPORTED, detail)
    digest = hashlib.sha256(quote.certification_data).digest()
    known = known_pck_chain(cache, roots, digest)
    if known is not None:
        chain = known[1]
        return CollateralQuery(chain.extension.fmspc, chain.ca_kind, quote.tee)
    fault = EvidenceError
    ders = decode_chain(quote.certification_data, fault=fault)
    leaf = parse_certificate(ders[0], fault=fault)
    if leaf.sgx_extension is None:
        require_role(leaf, Role.PCK, fault=fault)
        detail = "PCK certificate without the SGX extension"
        raise fault(Code.PCK_EXTENSION_INVALID, detail)
    if len(ders) == 1:
        detail = f"{leaf.common_name!r}: not a PCK certificate with its CA"
        raise fault(Code.CERTIFICATE_ROLE_MISMATCH, detail)
    ca = parse_certificate(ders[1], fault=fault)
    extension = parse_pck_extension(leaf.sgx_extension, fault=fault)
    return CollateralQuery(extension.fmspc, ca_kind(ca), quote.tee)


def require_chain(
    quote: UnverifiedQuote, *, roots: tuple[TrustedRoot, ...], cache: ResultCache
) -> None:
    """Verify the chain of a quote before anything is fetched for it.

    Else whoever invents a platform family makes the provider ask for its collateral. A
    chain that verified before costs a look into the cache. Validity and revocation are
    for ``verify_quote``, which has the CRLs.

    Raises:
        EvidenceError: ``root_not_trusted``, ``certificate_malformed``,
            ``certificate_chain_too_long``, ``certificate_role_mismatch``,
            ``certificate_chain_invalid`` or ``pck_extension_invalid``.
    """
    digest = hashlib.sha256(quote.certification_data).digest()
    if known_pck_chain(cache, roots, digest) is not None:
        return
    ders = decode_chain(quote.certification_data, fault=EvidenceError)
    root, certificate = find_root(ders[-1], roots, fault=EvidenceError)
    chain = verify_pck_chain(ders, certificate)
    cache.put((PCK_CHAIN_ROLE, root.trust_domain.root_key_id, digest), chain)
