# SPDX-License-Identifier: Apache-2.0
"""Who signed a part: a root that is switched on, or a stranger.

A record keeps older parts out, by dates that only a signature makes true: one forged
part with a date or number of its own would lock the genuine ones out, long after
whoever served it is gone. By signatures from the part up to the root; roles, validity
and revocation are not judged here: it keeps strangers out and is no reason to believe.
"""

from __future__ import annotations

from itertools import pairwise

from cryptography import x509

from tightseal.collateral import wire
from tightseal.collateral.certificate import issued_by, parse_certificate, public_key
from tightseal.collateral.parts import Part, PartKind, PartName
from tightseal.errors import Code, CollateralError
from tightseal.model.roots import TrustedRoot, TrustedRoots

__all__ = ["chain_above", "check_origin", "domain_of"]


def chain_above(signer: PartName) -> PartName:
    """The name of the chain that an SNP signer belongs under."""
    return PartName(PartKind.SNP_CHAIN, ":".join(signer.subject.split(":")[:2]))


def check_origin(part: Part, roots: TrustedRoots, *, chain: Part | None) -> str | None:
    """Refuse a part of no root that is switched on.

    Args:
        part: made by ``make_part``, which checked its own links.
        roots: of a vendor without any, nothing is asked.
        chain: what ``chain_above`` names, where it is at hand; its origin was checked.

    Returns:
        the trust domain of one of Intel's parts; ``None`` where it does not say.

    Raises:
        CollateralError: ``root_not_trusted``.

    Says nothing of a signer without a chain, or of a PCK CRL that came without one.
    """
    domain = None
    if part.name.kind.intel:
        domain = domain_of(part, roots) if roots.intel else None
        telling = part.chain or part.name.kind is PartKind.ROOT_CRL
        known = not roots.intel or domain is not None or not telling
    elif part.name.kind is PartKind.SNP_SIGNER:
        known = chain is None or _issued(part, chain)
    else:
        known = not roots.amd or _under_amd_root(part, roots)
    if not known:
        raise CollateralError(
            Code.ROOT_NOT_TRUSTED,
            f"{part.name}: not signed under a root that is switched on",
        )
    return domain


def domain_of(part: Part, roots: TrustedRoots) -> str | None:
    """The trust domain whose root signed for one of Intel's parts; ``None`` for others.

    Nobody else can lay claim to a domain, so that it is good for choosing the marks to
    compare with.
    """
    if part.name.kind is PartKind.ROOT_CRL:
        crl = wire.load_crl(part.body)
        return next(
            (str(root.trust_domain) for root in roots.intel if _signed(crl, root)), None
        )
    if not part.chain:
        return None
    chain = [parse_certificate(der) for der in wire.certificate_chain(part.chain)]
    if not all(issued_by(child, issuer) for child, issuer in pairwise(chain)):
        return None
    spki = chain[-1].spki
    return next(
        (str(root.trust_domain) for root in roots.intel if root.spki == spki), None
    )


def _under_amd_root(part: Part, roots: TrustedRoots) -> bool:
    """Whether a chain ends in its product's root key, or that key signed the CRL."""
    product = part.name.subject.partition(":")[2]
    mine = [root for root in roots.amd if root.product == product]
    if part.name.kind is PartKind.SNP_CRL:
        crl = wire.load_crl(part.body)
        return any(_signed(crl, root) for root in mine)
    last = wire.certificate_chain(part.body.decode("ascii"))[-1]
    spki = parse_certificate(last).spki
    return any(root.spki == spki for root in mine)


def _issued(signer: Part, chain: Part) -> bool:
    """Whether the chain's intermediate made the signer, which is kept for years."""
    intermediate = wire.certificate_chain(chain.body.decode("ascii"))[0]
    return issued_by(parse_certificate(signer.body), parse_certificate(intermediate))


def _signed(crl: x509.CertificateRevocationList, root: TrustedRoot) -> bool:
    key = public_key(root.spki)
    try:
        return key is not None and crl.is_signature_valid(key)
    except wire.PARSER_ERRORS:
        return False
