# SPDX-License-Identifier: Apache-2.0
"""TLS that ends in the provider: its certificate is judged by evidence, not by CAs.

Three ways to meet the certificate of a provider, besides a context of one's own:

* ``PUBLIC_CA``: the public CAs and the host name count. For a proxy in front, or files.
* ``EXCHANGE``: nobody judges the certificate, as with plain HTTP: the exchange itself
  is signed and sealed, and names the provider's TLS key where TLS ends there.
* ``ATTESTED``: the certificate carries evidence of its key, and no byte is sent before
  it was verified against the pin. Names and CAs do not count.

What ``ATTESTED`` adds to the exchange: the request is hidden from everybody on the way
and from the host. It proves the provider's image and platform, not its keyring, policy
or settings, which the challenge proves right after. Like all evidence inside of a
handshake it is not fresh: who got the TLS key out of the enclave can use it elsewhere
until the certificate ends. The challenge, signed over the guest's nonce, is fresh.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import httpx

from tightseal.errors import Code, EvidenceError, ProviderError, SettingsError
from tightseal.evidence.attested_certificate import (
    CertificateEvidence,
    CertificateForm,
    certificate_evidence,
    check_report_data,
)
from tightseal.evidence.certificate import (
    Certificate,
    check_own_signature,
    read_certificate,
)
from tightseal.guest.pins import ProviderPin
from tightseal.guest.provider import (
    ProviderCollateral,
    Tolerance,
    check_claims,
    verified,
)
from tightseal.model.claims import Claims
from tightseal.model.ports import Clock
from tightseal.model.tls import TlsTrust

__all__ = [
    "CERTIFICATE_CHECKS",
    "AttestedContext",
    "TlsTrust",
    "VerifiedCertificate",
    "attested_context",
    "attests",
    "trust_context",
    "unattested",
    "verify_certificate",
]

MAX_CERTIFICATE_SECONDS: Final = 3 * 86_400
"""Longest life of a certificate: two epochs of an attested key, and clocks apart."""

_TLS_STARTED: Final = "connection.start_tls.complete"


@dataclass(frozen=True, slots=True)
class VerifiedCertificate:
    """A certificate whose key belongs to the pinned image on a genuine platform.

    Attributes:
        certificate: as read.
        claims: what its evidence says.
    """

    certificate: Certificate
    claims: Claims


@dataclass(frozen=True, slots=True)
class _Shown:
    """What the checks look at."""

    certificate: Certificate
    now: int
    tolerance: Tolerance


def verify_certificate(
    encoded: bytes,
    *,
    pin: ProviderPin,
    collateral: ProviderCollateral,
    now: int,
    tolerance: Tolerance | None = None,
) -> VerifiedCertificate:
    """Check a provider's certificate: form, ``CERTIFICATE_CHECKS``, then its evidence.

    The evidence must be in the CCC's form, about this certificate's key, authentic, of
    the pin's trust domains and TCB statuses, and measure the pin's image, without debug
    or migration. Does not check names, the pin's keyring, policy root and settings
    digest, which the certificate does not say, nor that anybody holds the key: the TLS
    handshake does that.

    Args:
        encoded: DER, as the peer showed it.
        pin: what the provider must be.
        collateral: judges the evidence; nothing is stapled to a certificate.
        now: Unix seconds by the guest's clock.
        tolerance: of the clocks.

    Raises:
        ProviderError: ``provider_unverified``, ``provider_identity_mismatch``,
            ``provider_simulated`` or ``provider_debug``.
    """
    try:
        certificate = read_certificate(encoded)
        shown = _Shown(certificate, now, tolerance or Tolerance())
        for _, check in CERTIFICATE_CHECKS:
            check(shown)
        found = _evidence(certificate)
    except EvidenceError as e:
        raise _unverified(f"{e.code.value}: {e.detail}") from e
    claims = verified(
        found.evidence, verifier_for=collateral.verifier_for, stapled=None, now=now
    )
    try:
        check_report_data(found, claims.report_data)
    except EvidenceError as e:
        raise _unverified(f"{e.code.value}: {e.detail}") from e
    check_claims(claims, pin=pin, report_data=found.report_data)
    return VerifiedCertificate(certificate, claims)


def _signature(s: _Shown) -> None:
    check_own_signature(s.certificate)


def _validity(s: _Shown) -> None:
    start, end = s.certificate.not_before, s.certificate.not_after
    if not 0 < end - start <= MAX_CERTIFICATE_SECONDS:
        detail = f"certificate is valid from {start} to {end}, over the longest life"
        raise EvidenceError(Code.CERTIFICATE_MALFORMED, detail)
    if s.now < start - s.tolerance.skew:
        detail = f"certificate is valid from {start}, now {s.now}"
        raise EvidenceError(Code.CERTIFICATE_NOT_YET_VALID, detail)
    if s.now > end + s.tolerance.skew:
        detail = f"certificate was valid until {end}, now {s.now}"
        raise EvidenceError(Code.CERTIFICATE_EXPIRED, detail)


CERTIFICATE_CHECKS: Final[tuple[tuple[str, Callable[[_Shown], None]], ...]] = (
    ("own_signature", _signature),
    ("validity", _validity),
)
"""The checks before the certificate's evidence is looked at, in order."""


def _evidence(certificate: Certificate) -> CertificateEvidence:
    found = certificate_evidence(certificate)
    if found.form is not CertificateForm.CCC:
        detail = f"evidence in the form of {found.form.value}, expected ccc"
        raise EvidenceError(Code.EVIDENCE_KIND_UNSUPPORTED, detail)
    return found


class AttestedContext(ssl.SSLContext):
    """A client's TLS context that verifies evidence before anything is sent.

    Works wherever a client takes an ``ssl.SSLContext``: sockets are judged at the end
    of their handshake, event loops at the first byte that would be sent.
    """

    judge: Callable[[bytes], object]
    """Raises where a certificate (DER) is not to be trusted."""


class _Judged:
    """What sockets and TLS objects share: judged once, before the first byte."""

    _passed = False

    def judge(self) -> None:
        """Judge the peer's certificate; the handshake must be over.

        Raises:
            ProviderError: as ``verify_certificate``.
        """
        if self._passed:
            return
        tls = cast("ssl.SSLObject", self)
        shown = tls.getpeercert(True)
        if shown is None:
            raise _unverified("the peer showed no certificate")
        cast("AttestedContext", tls.context).judge(shown)
        self._passed = True


class _JudgedObject(_Judged, ssl.SSLObject):
    def write(self, data: Any) -> int:
        """Send; judged before."""
        self.judge()
        return super().write(data)


class _JudgedSocket(_Judged, ssl.SSLSocket):
    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002
        """Shake hands, and judge the certificate."""
        super().do_handshake(block)
        try:
            self.judge()
        except BaseException:
            self.close()
            raise

    def send(self, data: Any, flags: int = 0) -> int:
        """Send; judged before."""
        self.judge()
        return super().send(data, flags)

    def write(self, data: Any) -> int:
        """Send; judged before."""
        self.judge()
        return super().write(data)


def attested_context(
    *,
    pin: ProviderPin,
    collateral: ProviderCollateral,
    clock: Clock,
    tolerance: Tolerance | None = None,
) -> AttestedContext:
    """A TLS 1.3 context that accepts the pinned provider's certificates alone.

    Args:
        pin: as of ``verify_certificate``.
        collateral: offline, or from services: a handshake cannot staple.
        clock: Unix seconds.
        tolerance: of the clocks.

    Raises:
        SettingsError: ``settings_invalid``, for collateral that is stapled.
    """
    if collateral.wants_stapled:
        detail = "attested TLS: collateral is needed before the provider can staple any"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    context = AttestedContext(ssl.PROTOCOL_TLS_CLIENT)
    _without_cas(context)
    context.sslsocket_class = _JudgedSocket
    context.sslobject_class = _JudgedObject
    context.judge = lambda encoded: verify_certificate(
        encoded, pin=pin, collateral=collateral, now=clock(), tolerance=tolerance
    )
    return context


def _without_cas(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE


def trust_context(
    trust: ssl.SSLContext | TlsTrust | None,
    *,
    url: httpx.URL,
    pin: ProviderPin,
    collateral: ProviderCollateral,
    clock: Clock,
    tolerance: Tolerance | None = None,
) -> ssl.SSLContext | bool:
    """What an HTTP client verifies certificates with; ``True`` for the public CAs.

    Raises:
        SettingsError: as ``attested_context``; for attested TLS at an address without.
    """
    if isinstance(trust, ssl.SSLContext):
        return trust
    if trust is TlsTrust.ATTESTED:
        if url.scheme != "https":
            detail = f"attested TLS: {url} is no https address"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        return attested_context(
            pin=pin, collateral=collateral, clock=clock, tolerance=tolerance
        )
    return unattested(trust)


def unattested(trust: TlsTrust | None) -> ssl.SSLContext | bool:
    """The same where there is no pin to judge evidence by.

    Raises:
        SettingsError: ``settings_invalid``, for attested TLS.
    """
    if trust is TlsTrust.ATTESTED:
        detail = "attested TLS: there is no pin here to judge a certificate by"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if trust is TlsTrust.EXCHANGE:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        _without_cas(context)
        return context
    return True


async def attests(event: str, info: dict[str, Any]) -> None:
    """A trace of httpcore that judges on a thread what an event loop would wait for.

    The context judges at the first byte in any case; this is only where it is cheap.

    Raises:
        ProviderError: as ``verify_certificate``.
    """
    if event != _TLS_STARTED:
        return
    stream = info["return_value"]
    tls = stream.get_extra_info("ssl_object")
    if not isinstance(tls, _Judged):
        return
    try:
        await asyncio.to_thread(tls.judge)
    except BaseException:
        await stream.aclose()
        raise


def _unverified(detail: str) -> ProviderError:
    return ProviderError(Code.PROVIDER_UNVERIFIED, f"TLS certificate: {detail}")
