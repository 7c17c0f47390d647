# SPDX-License-Identifier: Apache-2.0
"""The second verifier: dcap-qvl, asked for its opinion and never for its policy.

The library is called with ``claims_only``, so that statuses are judged here, and always
without ``pck_certificate_chain``: given one, it would replace the chain in the quote,
and the library would judge another certificate than the one presented.

Its answers are values, not exceptions, since both verifiers' answers are compared
(:mod:`tightseal.evidence.agreement`). The library holds the GIL while it works.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeAlias

import dcap_qvl
import msgspec

from tightseal.evidence.qvl_claims import QvlClaims, decode_claims
from tightseal.model.claims import TcbStatus, Vendor
from tightseal.model.collateral import IntelCollateral
from tightseal.model.roots import TrustedRoot

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["QvlAnswer", "QvlOpinion", "QvlRefusal", "explain", "judge", "judge_any"]

MAX_CONVERTED: Final = 64
"""Most collateral objects of the library that are kept for reuse."""

MAX_MESSAGE_CHARS: Final = 300
"""Longest message of the library that is kept; parts may be attacker-chosen."""

MAX_TIME: Final = 1 << 40
"""Latest time, in Unix seconds, that the library is asked about."""

_PREFIX: Final = "Verification failed: "

WRONG_ROOT: Final = "Failed to parse root CA CRL"
"""The library's first check: does the collateral's root CRL belong to the root."""


@dataclass(frozen=True, slots=True)
class QvlOpinion:
    """The library accepts.

    Attributes:
        status: merged TCB status; ``REVOKED`` never reaches this.
        advisory_ids: united advisories.
        ppid, fmspc: of the PCK certificate that it verified; 16 and 6 bytes.
        claims: everything else that it says.
    """

    status: TcbStatus
    advisory_ids: frozenset[str]
    ppid: bytes
    fmspc: bytes
    claims: QvlClaims

    def __str__(self) -> str:
        """The answer for people."""
        advisories = ", ".join(sorted(self.advisory_ids)) or "none"
        return (
            f"accepts: {self.status.value}, advisories {advisories}, "
            f"PPID {self.ppid.hex()}, FMSPC {self.fmspc.hex()}"
        )


@dataclass(frozen=True, slots=True)
class QvlRefusal:
    """The library refuses.

    Attributes:
        message: its message without the constant prefix; the outermost context only.
    """

    message: str

    def __str__(self) -> str:
        """The answer for people."""
        return f"refuses: {self.message}"


QvlAnswer: TypeAlias = QvlOpinion | QvlRefusal


def judge(
    quote: bytes, collateral: IntelCollateral, *, now: int, root: TrustedRoot
) -> QvlAnswer:
    """Ask the library about a quote.

    Args:
        quote: the quote, cut to its declared length.
        collateral: its ``pck_certificate_chain`` is left out.
        now: Unix seconds.
        root: the only root that counts; a simulated one needs its certificate.

    Returns:
        the opinion or the refusal; whatever the library raises is a refusal.

    Does not check: what ``DIFFERENCES`` of the agreement module lists as ours alone.
    """
    if not 0 <= now <= MAX_TIME:
        return QvlRefusal(f"time out of range: {now}")

    def ask() -> QvlAnswer:
        policy = dcap_qvl.QuotePolicy.claims_only(now)
        claims = _verifier(root).verify_with_policy(
            bytes(quote), _converted(_ByContent(collateral)), now, policy
        )
        return _opinion(claims.to_json(), root)

    return _contained(ask)


def judge_any(
    quote: bytes,
    collateral: IntelCollateral,
    *,
    now: int,
    roots: tuple[TrustedRoot, ...],
) -> tuple[QvlAnswer, TrustedRoot | None]:
    """Ask under each root until the collateral's root CRL belongs to it.

    Returns:
        the answer and the root it was given under; the first root's refusal where the
        collateral belongs to none.
    """
    first: QvlAnswer = QvlRefusal("no root is trusted")
    for at, root in enumerate(roots):
        answer = judge(quote, collateral, now=now, root=root)
        if isinstance(answer, QvlOpinion) or answer.message != WRONG_ROOT:
            return answer, root
        if at == 0:
            first = answer
    return first, None


def explain(
    quote: bytes, collateral: IntelCollateral, *, now: int, root: TrustedRoot
) -> str:
    """The library's whole reason for a refusal, for the operator.

    Its policy API tells the outermost context only; its older API tells causes too, at
    the price of a second verification.
    """

    def ask() -> QvlAnswer:
        converted = _converted(_ByContent(collateral))
        certificate = _certificate(root)
        if certificate is None:
            dcap_qvl.verify(bytes(quote), converted, now)
        else:
            dcap_qvl.verify_with_root_ca(bytes(quote), converted, certificate, now)
        return QvlRefusal("no reason given")

    answer = _contained(ask)
    return answer.message if isinstance(answer, QvlRefusal) else ""


class _ByContent:
    """Collateral that hashes by its content hash, computed once when it was made."""

    __slots__ = ("collateral",)

    def __init__(self, collateral: IntelCollateral) -> None:
        self.collateral = collateral

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, _ByContent)
            and self.collateral.content_hash == other.collateral.content_hash
        )

    def __hash__(self) -> int:
        return hash(self.collateral.content_hash)


@lru_cache(maxsize=MAX_CONVERTED)
def _converted(key: _ByContent) -> dcap_qvl.QuoteCollateralV3:
    given = key.collateral
    return dcap_qvl.QuoteCollateralV3(
        given.pck_crl_issuer_chain,
        given.root_ca_crl,
        given.pck_crl,
        given.tcb_info_issuer_chain,
        given.tcb_info,
        given.tcb_info_signature,
        given.qe_identity_issuer_chain,
        given.qe_identity,
        given.qe_identity_signature,
    )


def _certificate(root: TrustedRoot) -> bytes | None:
    """The root's certificate, or ``None`` for Intel's, which the library carries."""
    if root.certificate is None and root.trust_domain.vendor is not Vendor.INTEL:
        message = "the root's certificate is unknown"
        raise ValueError(message)
    return root.certificate


def _verifier(root: TrustedRoot) -> dcap_qvl.QuoteVerifier:
    certificate = _certificate(root)
    if certificate is None:
        return dcap_qvl.QuoteVerifier()
    return dcap_qvl.QuoteVerifier(certificate)


def _opinion(text: str, root: TrustedRoot) -> QvlAnswer:
    claims = decode_claims(text)
    root_key_id = bytes(claims.platform.root_key_id).hex()
    if root_key_id != root.trust_domain.root_key_id:
        expected = root.trust_domain.root_key_id
        return QvlRefusal(f"root key {root_key_id}, expected {expected}")
    return QvlOpinion(
        status=claims.tcb.status,
        advisory_ids=frozenset(claims.tcb.advisory_ids),
        ppid=bytes(claims.platform.pck.ppid),
        fmspc=bytes(claims.platform.pck.fmspc),
        claims=claims,
    )


def _contained(ask: Callable[[], QvlAnswer]) -> QvlAnswer:
    """Turn whatever the library raises into a refusal."""
    try:
        return ask()
    except msgspec.MsgspecError as error:
        return _refusal(f"claims of another form: {error}")
    except (ValueError, TypeError, OverflowError) as error:
        return _refusal(str(error))
    except BaseException as error:
        # A panic in the library derives from BaseException, and its class cannot be
        # imported; it must end this request, not the process.
        if type(error).__name__ != "PanicException":
            raise
        return _refusal(f"panic: {error}")


def _refusal(message: str) -> QvlRefusal:
    words = " ".join(message.removeprefix(_PREFIX).split())
    return QvlRefusal(words[:MAX_MESSAGE_CHARS])
