# SPDX-License-Identifier: Apache-2.0
"""``tightseal verify``: is this evidence authentic, and what does it say."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.presented import STDIN, presented, read_evidence
from tightseal.cli.verdict import Verdict, document, show
from tightseal.errors import (
    Code,
    PolicyError,
    SettingsError,
    TightsealError,
)
from tightseal.evidence.agreement import Disagreement, differences_markdown
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.detect import (
    EvidenceKind,
    detect,
    named_tee,
)
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.model.claims import Claims, TcbStatus, Tee
from tightseal.model.collateral import CollateralGuard, CollateralSource
from tightseal.model.roots import TrustedRoots
from tightseal.model.verifiers import VerifierException, VerifierMode

__all__ = [
    "UsageError",
    "collateral_source",
    "moment",
    "read_evidence",
    "trusted_roots",
    "verify",
]

MAX_TIME: Final = 1 << 40
"""Latest ``--at``, Unix seconds."""

MAX_ROOT_FILE_BYTES: Final = 1 << 16
RESULTS_KEPT: Final = 64
"""Signature results kept; one command verifies a handful."""


class UsageError(Exception):
    """The command line asks for what cannot be asked."""


def verify(
    evidence: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    /,
    *,
    collateral: Path | None = None,
    at: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
    root_ca: Path | None = None,
    verifier: VerifierMode = VerifierMode.BOTH,
    accept_tcb: str | None = None,
    accept_exception: str | None = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
    differences: bool = False,
) -> int:
    """Verify evidence: 0 authentic, 1 rejected, 2 could not be read.

    Args:
        evidence: File with a quote or report, binary, hex or base64; - for stdin. Or
            a certificate that carries one, PEM or DER, or HOST:PORT that shows it.
        collateral: JSON of QuoteCollateralV3, or for SNP a folder with the
            certificates. Without it: the cache, then the configured PCCS or KDS.
        at: Verify as of this time, Unix seconds or RFC 3339; now by default.
        root_ca: Root certificate of a simulated world, DER or PEM, to be trusted too.
        verifier: Who judges Intel evidence.
        accept_tcb: Intel TCB statuses to accept, with commas; all but Revoked by
            default.
        accept_exception: Rules on which dcap-qvl may be overruled, with commas:
            sept_ve_enabled, qe_auth_data_length.
        as_json: One JSON document on stdout.
        differences: Print where the two verifiers differ on purpose, and stop.
    """
    if differences:
        sys.stdout.write(differences_markdown())
        return ui.EXIT_YES
    said_tee: Tee | None = None
    try:
        if evidence is None or (evidence.startswith("-") and evidence != STDIN):
            raise UsageError(f"EVIDENCE is a file or -, got {evidence or 'nothing'}")
        accepted = _statuses(accept_tcb)
        exceptions = _exceptions(accept_exception)
        now = int(time.time()) if at is None else moment(at)
        given = presented(evidence)
        data = given.evidence
        kind = detect(data)
        said_tee = named_tee(data, kind)
        _check_kind(kind, verifier=verifier, accepted=accepted)
        roots = trusted_roots(root_ca)
        verify_evidence = EvidenceVerifier(
            roots=roots,
            source=collateral_source(collateral, roots),
            cache=ResultCache(RESULTS_KEPT),
            mode=verifier,
            exceptions=exceptions,
            guard=_guard() if at is None else None,
            on_disagreement=_tell,
            use_embedded=collateral is None,
        )
        claims = verify_evidence(data, now=now)
        certificate = given.bound(claims)
        verdict = Verdict(
            claims, _status_error(claims, accepted), certificate=certificate
        )
    except UsageError as error:
        return ui.usage_error(str(error), "verify --help")
    except TightsealError as error:
        verdict = Verdict(error=error, said_tee=said_tee)
    if as_json:
        ui.print_json(document(verdict))
    else:
        show(verdict)
    return verdict.exit_status


def _check_kind(
    kind: EvidenceKind, *, verifier: VerifierMode, accepted: frozenset[TcbStatus] | None
) -> None:
    if kind is EvidenceKind.QUOTE:
        return
    if verifier is VerifierMode.DCAP_QVL:
        raise UsageError("--verifier dcap-qvl judges Intel evidence, and this is SNP's")
    if accepted is not None:
        raise UsageError("--accept-tcb names Intel's statuses, and SNP has none")


def _statuses(text: str | None) -> frozenset[TcbStatus] | None:
    if text is None:
        return None
    known = [s.value for s in TcbStatus if s is not TcbStatus.REVOKED]
    return frozenset(TcbStatus(name) for name in _names("--accept-tcb", text, known))


def _exceptions(text: str | None) -> frozenset[VerifierException]:
    if text is None:
        return frozenset()
    known = [exception.value for exception in VerifierException]
    names = _names("--accept-exception", text, known)
    return frozenset(VerifierException(name) for name in names)


def _names(option: str, text: str, known: list[str]) -> list[str]:
    """A list with commas, each of a known name."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            expected = ", ".join(known)
            raise UsageError(f"{option}: got {name!r}, expected any of {expected}")
    return names


def moment(text: str) -> int:
    """Unix seconds of a time on the command line.

    Raises:
        UsageError: neither Unix seconds nor RFC 3339, or out of range.
    """
    try:
        if text.isascii() and text.isdecimal():
            seconds = int(text)
        else:
            given = datetime.fromisoformat(text)
            if given.tzinfo is None:
                raise UsageError(f"--at {text}: an RFC 3339 time has Z or an offset")
            seconds = int(given.timestamp())
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--at {text}: neither Unix seconds nor RFC 3339") from error
    if not 0 <= seconds <= MAX_TIME:
        raise UsageError(f"--at {text}: out of range")
    return seconds


def trusted_roots(root_ca: Path | None) -> TrustedRoots:
    """The vendors' roots, and that of a simulated world where a file names one.

    Raises:
        SettingsError: ``settings_invalid``, where the file holds no root.
    """
    if root_ca is None:
        return VENDOR_ROOTS
    try:
        with root_ca.open("rb") as file:
            certificate = file.read(MAX_ROOT_FILE_BYTES)
    except OSError as error:
        message = f"--root-ca {root_ca}: {error.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, message) from error
    return with_simulated(VENDOR_ROOTS, certificate)


def collateral_source(collateral: Path | None, roots: TrustedRoots) -> CollateralSource:
    """Collateral from a file or folder; else the cache and the configured services."""
    if collateral is None:
        from tightseal.cli.options import open_source  # noqa: PLC0415 (start-up time)

        return open_source(roots=roots)
    from tightseal.collateral.bundle import FileSource  # noqa: PLC0415 (start-up time)

    return FileSource(collateral)


def _guard() -> CollateralGuard:
    """The floor built into the release; collateral of a past time would be below it."""
    from tightseal.collateral.guard import MemoryGuard  # noqa: PLC0415 (start-up time)

    return MemoryGuard()


def _status_error(
    claims: Claims, accepted: frozenset[TcbStatus] | None
) -> PolicyError | None:
    if accepted is None or claims.tcb is None or claims.tcb.status in accepted:
        return None
    names = ", ".join(sorted(status.value for status in accepted))
    detail = f"got {claims.tcb.status.value}, accepted: {names}"
    return PolicyError(Code.TCB_STATUS_NOT_ACCEPTED, detail)


def _tell(disagreement: Disagreement) -> None:
    rule = disagreement.rule or "none: please report this evidence"
    ui.note(
        f"the verifiers differ: native {disagreement.native}; "
        f"dcap-qvl {disagreement.qvl}; rule: {rule}"
    )
