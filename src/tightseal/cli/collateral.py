# SPDX-License-Identifier: Apache-2.0
"""``tightseal collateral``: fetch it, carry it to hosts without a network, look at it.

Everything goes through the cache folder: ``--cache``, or ``TIGHTSEAL_CACHE``, or
``~/.cache/tightseal``. Services are ``--pccs`` and ``--kds``, or ``TIGHTSEAL_PCCS`` and
``TIGHTSEAL_KDS``.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from tightseal.cli import ui
from tightseal.cli.options import cache_folder, open_source
from tightseal.cli.verify import read_evidence, trusted_roots
from tightseal.collateral import wire
from tightseal.collateral.bundle import (
    MAX_BUNDLE_BYTES,
    bundle_from_json,
    bundle_to_json,
    intel_from_json,
    intel_to_json,
    is_bundle,
    read_bounded,
)
from tightseal.collateral.cache import Record
from tightseal.collateral.guard import MemoryGuard
from tightseal.collateral.kds import chain_name, crl_name, signer_name
from tightseal.collateral.parts import Part, PartName, assemble, intel_names, split
from tightseal.collateral.refresh import RefreshSettings, due_at
from tightseal.collateral.source import CachedSource
from tightseal.errors import Code, CollateralError, SettingsError
from tightseal.evidence.detect import EvidenceKind, decode_text, detect
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.unverified import collateral_query
from tightseal.evidence.snp.form import split_evidence
from tightseal.evidence.snp.query import certificate_query
from tightseal.evidence.snp.report import parse_report
from tightseal.model.claims import Tee

__all__ = ["collateral_app"]

MAX_TIME: Final = 1 << 40
"""Latest ``--at``, Unix seconds."""

_FMSPC_BYTES: Final = 6

collateral_app = App(
    name="collateral",
    help="Fetch, export, import and show collateral.",
    default_parameter=Parameter(negative=()),
)

Cache = Annotated[Path | None, Parameter("--cache")]
Json = Annotated[bool, Parameter("--json")]
At = Annotated[int | None, Parameter("--at")]
Fmspc = Annotated[str | None, Parameter("--fmspc")]


@collateral_app.command
def fetch(
    *evidence: str,
    fmspc: Fmspc = None,
    ca: str = "platform",
    tee: Tee = Tee.TDX,
    pccs: tuple[str, ...] = (),
    kds: tuple[str, ...] = (),
    cache: Cache = None,
    at: At = None,
    root_ca: Path | None = None,
    as_json: Json = False,
) -> int:
    """Fetch collateral anew: for evidence, for an FMSPC, or for all that is cached.

    Args:
        evidence: Files with quotes or reports; what they need is fetched.
        fmspc: A platform family, 12 hex digits, with --ca and --tee.
        ca: The PCK CA of --fmspc: platform or processor.
        tee: The TEE of --fmspc: tdx or sgx.
        pccs: Addresses of PCCS or PCS, best first.
        kds: Addresses of AMD's key distribution, such as https://kdsintf.amd.com.
        cache: Folder of the cache.
        at: Fetch what is valid at this time, Unix seconds; below the release's floor
            too.
        root_ca: Root certificate of a simulated world, DER or PEM, to be trusted too.
        as_json: One JSON document on stdout.
    """
    now = _moment(at)
    guard = MemoryGuard() if at is None else None
    source = open_source(
        cache=cache, pccs=pccs, kds=kds, guard=guard, roots=trusted_roots(root_ca)
    )
    names: list[PartName] = []
    for item in evidence:
        names += _names_of(item, source, now)
    if fmspc is not None:
        names += _family(fmspc, ca, tee)
    if not names:
        names = [record.part.name for record in source.cache.records()]
    if not names:
        raise SettingsError(
            Code.SETTINGS_INVALID, "nothing to fetch: name evidence or --fmspc"
        )
    done = []
    for name in dict.fromkeys(names):
        try:
            done.append(source.renew(name, now=now))
        except CollateralError as error:
            if _optional(name, error):
                ui.note(f"{name}: the service has none")
                continue
            raise
    _show(done, now, word="fetched", as_json=as_json)
    return ui.EXIT_YES


def _optional(name: PartName, error: CollateralError) -> bool:
    """AMD may publish no CRL for a product; everything else has to be there."""
    return name.kind.value == "snp_crl" and error.code is Code.COLLATERAL_NOT_FOUND


@collateral_app.command
def export(
    out: Path | None = None,
    /,
    *,
    fmspc: Fmspc = None,
    ca: str = "platform",
    tee: Tee = Tee.TDX,
    cache: Cache = None,
    at: At = None,
    as_json: Json = False,
) -> int:
    """Write the cache as one file for hosts without a network.

    Args:
        out: File to write; stdout by default.
        fmspc: Write only this family's, as QuoteCollateralV3 for verify --collateral.
        ca: The PCK CA of --fmspc.
        tee: The TEE of --fmspc.
        cache: Folder of the cache.
        at: With --fmspc: what is valid at this time, Unix seconds.
        as_json: With a file: one JSON document on stdout about what was written.
    """
    source = open_source(cache=cache)
    if fmspc is None:
        records = source.cache.records()
        text = bundle_to_json(tuple(record.part for record in records))
        parts = len(records)
    else:
        names = _family(fmspc, ca, tee)
        now = _moment(at)
        one, two, three, four = (_cached(source, name, now) for name in names)
        text = intel_to_json(assemble(one, two, three, four))
        parts = len(names)
    if out is None:
        sys.stdout.write(text + "\n")
        return ui.EXIT_YES
    _write(out, text)
    if as_json:
        ui.print_json({"written": str(out), "parts": parts})
    else:
        ui.verdict("exported", f"{parts} parts to {out}", tone="yes")
    return ui.EXIT_YES


@collateral_app.command(name="import")
def import_(
    file: Path,
    /,
    *,
    cache: Cache = None,
    at: At = None,
    as_json: Json = False,
) -> int:
    """Take in a file made by export, or a QuoteCollateralV3. Newer is never replaced.

    Args:
        file: The file.
        cache: Folder of the cache.
        at: Time to judge by, Unix seconds; below the release's floor too.
        as_json: One JSON document on stdout.
    """
    now = _moment(at)
    data = read_bounded(file, MAX_BUNDLE_BYTES)
    fields = wire.json_object(data, code=Code.COLLATERAL_UNREADABLE)
    parts = (
        bundle_from_json(data) if is_bundle(fields) else split(intel_from_json(data))
    )
    guard = MemoryGuard() if at is None else None
    source = open_source(cache=cache, guard=guard)
    taken: list[Record] = []
    refused: list[tuple[Part, CollateralError]] = []
    for part in parts:
        try:
            taken.append(source.add(part, now=now))
        except CollateralError as error:
            refused.append((part, error))
    if as_json:
        ui.print_json(
            {
                "imported": [_row(record, now) for record in taken],
                "refused": [
                    {
                        "kind": part.name.kind.value,
                        "subject": part.name.subject,
                        "code": reason.code.value,
                        "detail": reason.detail,
                    }
                    for part, reason in refused
                ],
            }
        )
    else:
        _show(taken, now, word="imported", as_json=False)
    for part, reason in refused:
        ui.note(f"{part.name} refused: {reason.code.value}: {reason.detail}")
    return ui.EXIT_NO if refused else ui.EXIT_YES


@collateral_app.command
def show(*, cache: Cache = None, at: At = None, as_json: Json = False) -> int:
    """Show what the cache holds, until when, and what is due.

    Args:
        cache: Folder of the cache.
        at: Time to judge by, Unix seconds; now by default.
        as_json: One JSON document on stdout.
    """
    now = _moment(at)
    records = open_source(cache=cache).cache.records()
    if as_json:
        ui.print_json(
            {
                "cache": str(cache or cache_folder()),
                "parts": [_row(record, now) for record in records],
            }
        )
    else:
        _show(records, now, word="cached", as_json=False)
    return ui.EXIT_YES


def _names_of(item: str, source: CachedSource, now: int) -> list[PartName]:
    """What one piece of evidence needs; read unverified, which only names a query."""
    data = decode_text(read_evidence(item))
    if detect(data) is EvidenceKind.QUOTE:
        query = collateral_query(parse_quote(data))
        return list(intel_names(fmspc=query.fmspc, ca=query.ca, tee=query.tee))
    wanted = certificate_query(parse_report(split_evidence(data).report))
    products = [wanted.product] if wanted.product else ["Milan", "Genoa"]
    for product in products:
        above = [
            chain_name(product, vlek=wanted.vlek),
            crl_name(product, vlek=wanted.vlek),
        ]
        if wanted.vlek:
            return above
        name = signer_name(product=product, chip_id=wanted.chip_id, tcb=wanted.tcb)
        try:
            source.renew(name, now=now)
        except CollateralError as error:
            # A version 2 report does not name its product: only AMD knows the chip.
            if error.code is Code.COLLATERAL_NOT_FOUND and product != products[-1]:
                continue
            raise
        return [name, *above]
    return []


def _cached(source: CachedSource, name: PartName, now: int) -> Part:
    record = source.cache.get(name)
    if record is None or not record.part.valid_at(now):
        raise CollateralError(
            Code.COLLATERAL_NOT_FOUND, f"{name}: not in the cache, or not valid now"
        )
    return record.part


def _fmspc(text: str) -> bytes:
    with suppress(ValueError):
        fmspc = bytes.fromhex(text)
        if len(fmspc) == _FMSPC_BYTES and len(text) == 2 * _FMSPC_BYTES:
            return fmspc
    raise SettingsError(
        Code.SETTINGS_INVALID, f"--fmspc: expected 12 hex digits, got {text!r}"
    )


def _family(fmspc: str, ca: str, tee: Tee) -> tuple[PartName, ...]:
    if ca not in ("platform", "processor"):
        raise SettingsError(
            Code.SETTINGS_INVALID, f"--ca: expected platform or processor, got {ca!r}"
        )
    if tee is Tee.SNP:
        raise SettingsError(Code.SETTINGS_INVALID, "--tee: expected tdx or sgx")
    return intel_names(fmspc=_fmspc(fmspc), ca=ca, tee=tee)


def _moment(at: int | None) -> int:
    if at is None:
        return int(time.time())
    if not 0 <= at <= MAX_TIME:
        raise SettingsError(Code.SETTINGS_INVALID, f"--at {at}: out of range")
    return at


def _state(record: Record, now: int) -> str:
    if now < record.part.issued_at:
        return "not yet valid"
    if now > record.part.expires_at:
        return "expired"
    return "due" if due_at(record, RefreshSettings()) <= now else "valid"


def _row(record: Record, now: int) -> dict[str, Any]:
    part = record.part
    return {
        "kind": part.name.kind.value,
        "subject": part.name.subject,
        "state": _state(record, now),
        "issued_at": part.issued_at,
        "expires_at": part.expires_at,
        "number": part.number,
        "fetched_at": record.fetched_at,
    }


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def _show(records: Iterable[Record], now: int, *, word: str, as_json: bool) -> None:
    rows = [_row(record, now) for record in records]
    if as_json:
        sys.stdout.write(json.dumps({word: rows}, indent=2) + "\n")
        return
    valid = sum(row["state"] in ("valid", "due") for row in rows)
    tone = "yes" if rows and valid == len(rows) else "unsure"
    ui.verdict(word, f"{len(rows)} parts, {valid} valid", tone=tone)
    for row in rows:
        ui.heading(f"{row['kind']} {row['subject']}")
        ui.facts(
            [
                ("state", row["state"]),
                ("issued", _day(row["issued_at"])),
                ("expires", _day(row["expires_at"])),
                ("number", str(row["number"])),
                ("fetched", _day(row["fetched_at"])),
            ]
        )


def _write(path: Path, text: str) -> None:
    """Replace a file at once, so that a crash leaves no half of it."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise CollateralError(
            Code.COLLATERAL_UNREADABLE, f"{path}: cannot be written: {error.strerror}"
        ) from error
