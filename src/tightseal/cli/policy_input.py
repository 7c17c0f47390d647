# SPDX-License-Identifier: Apache-2.0
"""What the commands of policy read: documents, claims, evidence and times."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tightseal.cli.verify import (
    UsageError,
    collateral_source,
    moment,
    read_evidence,
    trusted_roots,
)
from tightseal.errors import Code, SettingsError
from tightseal.model.claims import Claims
from tightseal.policy.claimsfile import read_claims
from tightseal.policy.eventlog.facts import EventFacts
from tightseal.policy.eventlog.replay import replay_event_log
from tightseal.policy.read import MAX_DOCUMENT_CHARS, Parsed, parse

__all__ = ["claims_from", "events_from", "read_bytes", "read_documents", "seconds_of"]

RESULTS_KEPT: Final = 4
"""Signature results kept; one command verifies one piece of evidence."""


def seconds_of(at: str | None) -> int:
    """Unix seconds of ``--at``; now by default.

    Raises:
        UsageError: not a time.
    """
    return int(time.time()) if at is None else moment(at)


def read_bytes(file: Path) -> bytes:
    """A file, of at most the size of a document.

    Raises:
        SettingsError: ``policy_invalid``, where it cannot be read or is too long.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_DOCUMENT_CHARS + 1)
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise SettingsError(Code.POLICY_INVALID, f"{file}: {reason}") from e
    if len(data) > MAX_DOCUMENT_CHARS:
        message = f"{file}: more than {MAX_DOCUMENT_CHARS} bytes"
        raise SettingsError(Code.POLICY_INVALID, message)
    return data


def read_documents(
    paths: Sequence[Path], *, texts: Mapping[str, str] | None = None
) -> list[Parsed]:
    """Read documents; of a folder, every ``.toml`` file directly in it.

    Args:
        paths: files and folders.
        texts: further documents by name.

    Raises:
        SettingsError: ``policy_invalid``, with place and field.
        UsageError: nothing is named, or a folder without documents.
    """
    named = dict(texts or {})
    for path in paths:
        files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
        if not files:
            raise UsageError(f"{path}: no .toml file directly in it{_below(path)}")
        for file in files:
            try:
                named[str(file)] = read_bytes(file).decode()
            except UnicodeDecodeError as e:
                raise SettingsError(Code.POLICY_INVALID, f"{file}: not UTF-8") from e
    if not named:
        raise UsageError("name a policy document, or a folder with some")
    return [parse(text, name=name) for name, text in named.items()]


def _below(path: Path) -> str:
    """Where the documents are, if this is a folder of approvers."""
    there = path / "targets" / "policy"
    return f"; name {there}" if there.is_dir() else ""


def claims_from(
    evidence: str | None,
    claims: Path | None,
    collateral: Path | None,
    root_ca: Path | None,
    *,
    now: int,
    past: bool,
) -> Claims:
    """Claims of evidence that is verified here, or of a file of claims.

    Args:
        evidence: file, or ``-``.
        claims: file of claims, in place of evidence.
        collateral: as for ``tightseal verify``.
        root_ca: likewise.
        now: Unix seconds.
        past: whether ``now`` was given: collateral may then be below today's floors.

    Raises:
        UsageError: neither evidence nor claims are named, or both.
        TightsealError: the evidence is refused, or cannot be judged.
    """
    if (evidence is None) == (claims is None):
        raise UsageError("name evidence, or a file of claims with --claims")
    if claims is not None:
        return read_claims(read_bytes(claims), name=str(claims))
    # Verifiers and their libraries load only where they are asked.
    from tightseal.collateral.guard import MemoryGuard  # noqa: PLC0415
    from tightseal.evidence.cache import ResultCache  # noqa: PLC0415
    from tightseal.evidence.detect import decode_text  # noqa: PLC0415
    from tightseal.evidence.verify import EvidenceVerifier  # noqa: PLC0415

    roots = trusted_roots(root_ca)
    verifier = EvidenceVerifier(
        roots=roots,
        source=collateral_source(collateral, roots),
        cache=ResultCache(RESULTS_KEPT),
        guard=None if past else MemoryGuard(),
        use_embedded=collateral is None,
    )
    assert evidence is not None
    return verifier(decode_text(read_evidence(evidence)), now=now)


def events_from(event_log: Path | None, claims: Claims) -> EventFacts | None:
    """What an event log proves beside claims; ``None`` without a log.

    Raises:
        SettingsError: ``policy_invalid``, where it cannot be read or is too long.
        EvidenceError: it does not lead to the registers of the claims.
    """
    return (
        None if event_log is None else replay_event_log(read_bytes(event_log), claims)
    )
