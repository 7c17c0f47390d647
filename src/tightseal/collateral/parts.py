# SPDX-License-Identifier: Apache-2.0
"""Collateral comes in parts, each with its own life: documents, CRLs, certificates.

Parts are kept apart, so that all platforms are judged by the one newest CRL: a bundle
per platform would bring an older CRL back, and the guard would refuse it.

Dates and numbers are read here *unverified*, to know what to fetch when; the verifier
judges. What is checked here catches damage in transport: the form, that the part is the
one asked for, and that its signature verifies under the chain that came with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tightseal.collateral import wire
from tightseal.collateral.certificate import (
    Certificate,
    issued_by,
    parse_certificate,
    public_key,
)
from tightseal.errors import Code, CollateralError
from tightseal.model.claims import Tee
from tightseal.model.collateral import CollateralFacts, IntelCollateral

__all__ = [
    "Part",
    "PartKind",
    "PartName",
    "assemble",
    "check_crl_signature",
    "intel_names",
    "make_part",
    "split",
]

_PRODUCT: Final = "(?:Milan|Genoa|Turin)"
_SUBJECTS: Final = {
    "tcb_info": re.compile(r"(?:sgx|tdx):[0-9a-f]{12}"),
    "qe_identity": re.compile(r"sgx|tdx"),
    "pck_crl": re.compile(r"crl:(?:platform|processor)"),
    "root_crl": re.compile(r"crl:root"),
    "snp_signer": re.compile(
        rf"vcek:{_PRODUCT}:(?:[0-9a-f]{{16}}|[0-9a-f]{{128}}):[0-9]{{1,3}}"
        r"(?:\.[0-9]{1,3}){3,4}"
    ),
    "snp_chain": re.compile(rf"v[cl]ek:{_PRODUCT}"),
    "snp_crl": re.compile(rf"v[cl]ek:{_PRODUCT}"),
}
"""The closed form of every kind's subjects; records and bundles name them too."""

MAX_NUMBER: Final = (1 << 160) - 1
"""Largest CRL number (RFC 5280 section 5.2.3: at most 20 octets)."""


class PartKind(StrEnum):
    """The kinds of parts. Intel's are the kinds that the guard knows too."""

    TCB_INFO = "tcb_info"
    QE_IDENTITY = "qe_identity"
    PCK_CRL = "pck_crl"
    ROOT_CRL = "root_crl"
    SNP_SIGNER = "snp_signer"
    SNP_CHAIN = "snp_chain"
    SNP_CRL = "snp_crl"

    @property
    def intel(self) -> bool:
        """Whether Intel publishes it; the rest is AMD's."""
        return not self.value.startswith("snp_")


@dataclass(frozen=True, slots=True)
class PartName:
    """Which part: what is asked for, and what a record is kept under.

    Subjects: ``tdx:<fmspc>`` (TCB info), ``tdx`` (QE identity), ``crl:platform``,
    ``crl:root``, ``vcek:Milan:<hwid>:<spls>`` (signer), ``vcek:Milan`` (chain, CRL).
    """

    kind: PartKind
    subject: str

    def __str__(self) -> str:
        return f"{self.kind.value} {self.subject}"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of collateral, made by ``make_part`` only.

    Attributes:
        name: which part.
        body: the signed JSON text, DER, or for an SNP chain PEM (intermediate, root).
        signature: raw r and s over ``body``; empty where the body carries its own.
        chain: PEM of the signing chain, leaf first; may be empty for a CRL.
        issued_at, expires_at: Unix seconds, unverified.
        number: evaluation or CRL number, unverified; 0 for certificates.
    """

    name: PartName
    body: bytes
    signature: bytes = b""
    chain: str = ""
    issued_at: int = field(default=0, compare=False)
    expires_at: int = field(default=0, compare=False)
    number: int = field(default=0, compare=False)

    def valid_at(self, now: int) -> bool:
        """Whether ``now`` lies within the part's own dates, both ends included."""
        return self.issued_at <= now <= self.expires_at

    def older_than(self, other: Part) -> bool:
        """Whether this part goes back behind ``other``: by the guard's own rule."""
        return self.issued_at < other.issued_at or self.number < other.number

    def facts(self, trust_domain: str) -> CollateralFacts:
        """What the guard compares; unverified, so only ever for refusing early."""
        return CollateralFacts(
            trust_domain=trust_domain,
            subject=self.name.subject,
            kind=self.name.kind.value,
            issued_at=self.issued_at,
            number=self.number,
        )


@dataclass(frozen=True, slots=True)
class _Dates:
    issued_at: int
    expires_at: int
    number: int = 0


def make_part(
    name: PartName, body: bytes, *, signature: bytes = b"", chain: str = ""
) -> Part:
    """Check the form of a part and read its dates.

    Raises:
        CollateralError: the malformed or signature code of its kind,
            ``fmspc_mismatch`` or a type mismatch where it is not the part asked for,
            ``collateral_too_large``.

    Does not check roots, roles, validity or revocation.
    """
    if len(body) > wire.MAX_DOCUMENT_BYTES:
        raise CollateralError(
            Code.COLLATERAL_TOO_LARGE,
            f"{name}: {len(body)} bytes, at most {wire.MAX_DOCUMENT_BYTES}",
        )
    if not _SUBJECTS[name.kind.value].fullmatch(name.subject):
        raise CollateralError(
            Code.COLLATERAL_UNREADABLE, f"{name.kind}: no such subject {name.subject!r}"
        )
    try:
        dates = _READERS[name.kind](name, body, signature, chain)
    except wire.PARSER_ERRORS as error:
        raise CollateralError(_MALFORMED[name.kind], f"{name}: {error}") from error
    return Part(
        name=name,
        body=body,
        signature=signature,
        chain=chain,
        issued_at=dates.issued_at,
        expires_at=dates.expires_at,
        number=dates.number,
    )


def _check_signature(body: bytes, signature: bytes, chain: str, code: Code) -> None:
    key = public_key(parse_certificate(wire.certificate_chain(chain)[0]).spki)
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise CollateralError(code, "the signing certificate has no EC key")
    if len(signature) != wire.SIGNATURE_BYTES:
        raise CollateralError(code, f"signature of {len(signature)} bytes")
    half = wire.SIGNATURE_BYTES // 2
    dss = encode_dss_signature(
        int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    )
    try:
        key.verify(dss, body, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError) as error:
        raise CollateralError(
            code, "the signature does not verify under the delivered chain"
        ) from error


def _document_dates(fields: dict[str, Any], code: Code) -> _Dates:
    number = fields.get("tcbEvaluationDataNumber")
    if type(number) is not int or not 0 <= number < 1 << 32:
        raise CollateralError(code, f"tcbEvaluationDataNumber: got {number!r}")
    return _Dates(
        issued_at=wire.parse_time(fields.get("issueDate"), code=code),
        expires_at=wire.parse_time(fields.get("nextUpdate"), code=code),
        number=number,
    )


def _tcb_info(name: PartName, body: bytes, signature: bytes, chain: str) -> _Dates:
    fields = wire.json_object(body, code=Code.TCB_INFO_MALFORMED)
    tee, _, fmspc = name.subject.partition(":")
    if fields.get("id") != tee.upper():
        raise CollateralError(
            Code.TCB_INFO_TYPE_MISMATCH,
            f"expected id {tee.upper()}, got {fields.get('id')!r}",
        )
    got = fields.get("fmspc")
    if not isinstance(got, str) or got.lower() != fmspc:
        raise CollateralError(Code.FMSPC_MISMATCH, f"expected {fmspc}, got {got!r}")
    _check_signature(body, signature, chain, Code.TCB_INFO_SIGNATURE_INVALID)
    return _document_dates(fields, Code.TCB_INFO_MALFORMED)


def _qe_identity(name: PartName, body: bytes, signature: bytes, chain: str) -> _Dates:
    fields = wire.json_object(body, code=Code.QE_IDENTITY_MALFORMED)
    expected = "TD_QE" if name.subject == Tee.TDX.value else "QE"
    if fields.get("id") != expected:
        raise CollateralError(
            Code.QE_IDENTITY_TYPE_MISMATCH,
            f"expected id {expected}, got {fields.get('id')!r}",
        )
    _check_signature(body, signature, chain, Code.QE_IDENTITY_SIGNATURE_INVALID)
    return _document_dates(fields, Code.QE_IDENTITY_MALFORMED)


def _crl(name: PartName, body: bytes, _signature: bytes, chain: str) -> _Dates:
    crl = wire.load_crl(body)
    if name.kind is PartKind.PCK_CRL:
        ca = name.subject.removeprefix("crl:")
        if ca not in crl.issuer.rfc4514_string().lower():
            raise CollateralError(
                Code.CRL_ISSUER_MISMATCH,
                f"expected the {ca} CA, got {crl.issuer.rfc4514_string()}",
            )
    if chain:
        check_crl_signature(crl, wire.certificate_chain(chain))
    if crl.next_update_utc is None:
        raise CollateralError(Code.CRL_MALFORMED, f"{name}: no nextUpdate")
    return _Dates(
        issued_at=int(crl.last_update_utc.timestamp()),
        # At its next update a CRL is over, as the verifiers have it.
        expires_at=int(crl.next_update_utc.timestamp()) - 1,
        number=_crl_number(crl),
    )


def check_crl_signature(
    crl: x509.CertificateRevocationList, certificates: tuple[bytes, ...]
) -> None:
    """Check that any of these certificates (DER) signed the CRL.

    Raises:
        CollateralError: ``crl_signature_invalid``.

    Catches damage in transport only: neither chain nor role is judged.
    """
    for der in certificates:
        key = public_key(parse_certificate(der).spki)
        if key is not None and crl.is_signature_valid(key):
            return
    raise CollateralError(
        Code.CRL_SIGNATURE_INVALID,
        "the CRL does not verify under the delivered chain",
    )


def _crl_number(crl: x509.CertificateRevocationList) -> int:
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber)
    except x509.ExtensionNotFound:
        return 0
    except ValueError as error:
        raise CollateralError(Code.CRL_MALFORMED, str(error)) from error
    value = number.value.crl_number
    if not 0 <= value <= MAX_NUMBER:
        raise CollateralError(Code.CRL_MALFORMED, "CRL number out of range")
    return value


def _life(certificate: Certificate) -> _Dates:
    return _Dates(certificate.not_before, certificate.not_after)


def _snp_signer(_name: PartName, body: bytes, _signature: bytes, chain: str) -> _Dates:
    certificate = parse_certificate(body)
    if chain:
        above = parse_certificate(wire.certificate_chain(chain)[0])
        if not issued_by(certificate, above):
            raise CollateralError(
                Code.CERTIFICATE_CHAIN_INVALID, "the signer is not issued by its chain"
            )
    return _life(certificate)


def _snp_chain(_name: PartName, body: bytes, _signature: bytes, _chain: str) -> _Dates:
    try:
        ders = wire.certificate_chain(body.decode("ascii"))
    except UnicodeDecodeError as error:
        raise CollateralError(Code.CERTIFICATE_MALFORMED, "not PEM") from error
    if len(ders) != len(("intermediate", "root")):
        raise CollateralError(
            Code.CERTIFICATE_CHAIN_INVALID,
            f"expected intermediate and root, got {len(ders)} certificates",
        )
    chain = [parse_certificate(der) for der in ders]
    if not issued_by(chain[0], chain[1]):
        raise CollateralError(
            Code.CERTIFICATE_CHAIN_INVALID, "the intermediate is not the root's"
        )
    lives = [_life(certificate) for certificate in chain]
    return _Dates(
        max(life.issued_at for life in lives), min(life.expires_at for life in lives)
    )


_READERS: Final[dict[PartKind, Callable[[PartName, bytes, bytes, str], _Dates]]] = {
    PartKind.TCB_INFO: _tcb_info,
    PartKind.QE_IDENTITY: _qe_identity,
    PartKind.PCK_CRL: _crl,
    PartKind.ROOT_CRL: _crl,
    PartKind.SNP_SIGNER: _snp_signer,
    PartKind.SNP_CHAIN: _snp_chain,
    PartKind.SNP_CRL: _crl,
}


_MALFORMED: Final = {
    PartKind.TCB_INFO: Code.TCB_INFO_MALFORMED,
    PartKind.QE_IDENTITY: Code.QE_IDENTITY_MALFORMED,
    PartKind.PCK_CRL: Code.CRL_MALFORMED,
    PartKind.ROOT_CRL: Code.CRL_MALFORMED,
    PartKind.SNP_SIGNER: Code.CERTIFICATE_MALFORMED,
    PartKind.SNP_CHAIN: Code.CERTIFICATE_MALFORMED,
    PartKind.SNP_CRL: Code.CRL_MALFORMED,
}


def intel_names(*, fmspc: bytes, ca: str, tee: Tee) -> tuple[PartName, ...]:
    """The four parts that judge one platform family, in the order of ``assemble``."""
    return (
        PartName(PartKind.TCB_INFO, f"{tee.value}:{fmspc.hex()}"),
        PartName(PartKind.QE_IDENTITY, tee.value),
        PartName(PartKind.PCK_CRL, f"crl:{ca}"),
        PartName(PartKind.ROOT_CRL, "crl:root"),
    )


def assemble(
    tcb_info: Part, qe_identity: Part, pck_crl: Part, root_crl: Part
) -> IntelCollateral:
    """Put the four parts of ``intel_names`` together."""
    return IntelCollateral(
        pck_crl_issuer_chain=pck_crl.chain,
        root_ca_crl=root_crl.body,
        pck_crl=pck_crl.body,
        tcb_info_issuer_chain=tcb_info.chain,
        tcb_info=tcb_info.body.decode(),
        tcb_info_signature=tcb_info.signature,
        qe_identity_issuer_chain=qe_identity.chain,
        qe_identity=qe_identity.body.decode(),
        qe_identity_signature=qe_identity.signature,
    )


def split(collateral: IntelCollateral) -> tuple[Part, Part, Part, Part]:
    """Take collateral apart; what it is about is read from itself.

    Raises:
        CollateralError: as ``make_part``; ``crl_issuer_mismatch`` where the PCK CRL is
            neither platform's nor processor's.
    """
    fields = wire.json_object(collateral.tcb_info, code=Code.TCB_INFO_MALFORMED)
    tee = str(fields.get("id", "")).lower()
    if tee not in (Tee.SGX.value, Tee.TDX.value):
        raise CollateralError(Code.TCB_INFO_TYPE_MISMATCH, f"id {fields.get('id')!r}")
    try:
        issuer = wire.load_crl(collateral.pck_crl).issuer.rfc4514_string().lower()
    except wire.PARSER_ERRORS as error:
        raise CollateralError(Code.CRL_MALFORMED, str(error)) from error
    ca = next((name for name in ("platform", "processor") if name in issuer), None)
    if ca is None:
        raise CollateralError(Code.CRL_ISSUER_MISMATCH, f"PCK CRL by {issuer}")
    fmspc = wire.hex_bytes(
        fields.get("fmspc"), what="fmspc", code=Code.TCB_INFO_MALFORMED
    )
    names = intel_names(fmspc=fmspc, ca=ca, tee=Tee(tee))
    return (
        make_part(
            names[0],
            collateral.tcb_info.encode(),
            signature=collateral.tcb_info_signature,
            chain=collateral.tcb_info_issuer_chain,
        ),
        make_part(
            names[1],
            collateral.qe_identity.encode(),
            signature=collateral.qe_identity_signature,
            chain=collateral.qe_identity_issuer_chain,
        ),
        make_part(names[2], collateral.pck_crl, chain=collateral.pck_crl_issuer_chain),
        make_part(names[3], collateral.root_ca_crl),
    )
