# SPDX-License-Identifier: Apache-2.0
"""Any evidence for people: every field as it stands, nothing verified.

For debugging and for reading what a refused quote says. No value from here may reach
a policy; only claims may, and those are made by verifiers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from tightseal.errors import EvidenceError, TightsealError
from tightseal.evidence.detect import EvidenceKind, detect
from tightseal.evidence.intel.layout import BODY_BYTES, FIELDS
from tightseal.evidence.intel.quote import UnverifiedQuote, parse_quote
from tightseal.evidence.intel.unverified import collateral_query
from tightseal.evidence.snp.form import split_evidence
from tightseal.evidence.snp.query import certificate_query
from tightseal.evidence.snp.report import UnverifiedReport, parse_report

__all__ = ["UNVERIFIED", "Inspection", "Section", "inspect_evidence"]

UNVERIFIED: Final = "UNVERIFIED: anybody could have written this"
"""Stands above every inspection."""

Value: TypeAlias = str | int | bool | None


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the evidence: its title, and names with values (bytes as hex)."""

    title: str
    fields: tuple[tuple[str, Value], ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What evidence says about itself.

    Attributes:
        kind: what it looks like.
        size: bytes.
        sections: what could be read.
        problem: why the rest could not be read, where that is so.
    """

    kind: EvidenceKind
    size: int
    sections: tuple[Section, ...]
    problem: TightsealError | None = None


def inspect_evidence(data: bytes) -> Inspection:
    """Take binary evidence apart for people.

    A part that cannot be read ends the inspection without losing the parts before it.

    Raises:
        EvidenceError: ``evidence_unreadable`` or ``evidence_too_large``, where it is
            evidence of no known kind.

    Verifies nothing.
    """
    kind = detect(data)
    sections: list[Section] = []
    steps = _quote_steps(data) if kind is EvidenceKind.QUOTE else _snp_steps(data)
    problem = None
    try:
        for step in steps:
            sections.append(step())  # noqa: PERF401 (keeps what came before an error)
    except EvidenceError as error:
        problem = error
    return Inspection(kind, len(data), tuple(sections), problem)


_Step: TypeAlias = Callable[[], Section]


def _quote_steps(data: bytes) -> tuple[_Step, ...]:
    return (
        lambda: _raw_header(data),
        lambda: _body(parse_quote(data)),
        lambda: _quoting_enclave(parse_quote(data)),
        lambda: _platform(parse_quote(data)),
    )


def _raw_header(data: bytes) -> Section:
    """The header by offset, so that one of an unknown version can be read too."""
    return Section(
        "header",
        (
            ("version", int.from_bytes(data[0:2], "little")),
            ("attestation_key_type", int.from_bytes(data[2:4], "little")),
            ("tee_type", f"{int.from_bytes(data[4:8], 'little'):#x}"),
            ("qe_svn", int.from_bytes(data[8:10], "little")),
            ("pce_svn", int.from_bytes(data[10:12], "little")),
            ("qe_vendor_id", data[12:28].hex()),
            ("user_data", data[28:48].hex()),
        ),
    )


def _body(quote: UnverifiedQuote) -> Section:
    size = BODY_BYTES[quote.body_type]
    names = [n for n, at in FIELDS[quote.body_type].items() if at.stop <= size]
    return Section(
        "report",
        (
            ("tee", quote.tee.value),
            ("body_type", quote.body_type.name.lower()),
            *((name, quote.field(name).hex()) for name in names),
        ),
    )


def _quoting_enclave(quote: UnverifiedQuote) -> Section:
    names = ("mrenclave", "mrsigner", "isv_prod_id", "isv_svn", "attributes", "cpu_svn")
    return Section(
        "quoting enclave and lengths",
        (
            *((f"qe_{name}", quote.qe_field(name).hex()) for name in names),
            ("qe_auth_data", quote.qe_auth_data.hex()),
            ("certification_type", quote.certification_type),
            ("declared_length", quote.declared_length),
            ("trailing_zeros", quote.trailing_zeros),
        ),
    )


def _platform(quote: UnverifiedQuote) -> Section:
    query = collateral_query(quote)
    return Section(
        "certificate in the quote", (("fmspc", query.fmspc.hex()), ("ca", query.ca))
    )


def _snp_steps(data: bytes) -> tuple[_Step, ...]:
    return (
        lambda: _wrapping(data),
        lambda: _report(parse_report(split_evidence(data).report)),
        lambda: _signing(parse_report(split_evidence(data).report)),
    )


def _wrapping(data: bytes) -> Section:
    split = split_evidence(data)
    table = split.table
    return Section(
        "form",
        (
            ("azure_hcl", split.hcl is not None),
            ("certificate_table", table is not None),
            ("vcek", table is not None and table.vcek is not None),
            ("vlek", table is not None and table.vlek is not None),
        ),
    )


def _report(report: UnverifiedReport) -> Section:
    return Section(
        "report",
        (
            ("version", report.version),
            ("policy", f"{report.policy:#x}"),
            ("debug", report.debug),
            ("vmpl", report.vmpl),
            ("snp_measurement", report.measurement.hex()),
            ("host_data", report.host_data.hex()),
            ("id_key_digest", report.id_key_digest.hex()),
            ("author_key_digest", report.author_key_digest.hex()),
            ("family_id", report.family_id.hex()),
            ("image_id", report.image_id.hex()),
            ("report_id", report.report_id.hex()),
            ("report_data", report.report_data.hex()),
            ("reported_tcb", report.reported_tcb.hex()),
            ("current_tcb", report.current_tcb.hex()),
            ("committed_tcb", report.committed_tcb.hex()),
            ("launch_tcb", report.launch_tcb.hex()),
            ("chip_id", report.chip_id.hex()),
        ),
    )


def _signing(report: UnverifiedReport) -> Section:
    query = certificate_query(report)
    return Section(
        "certificates that it needs",
        (
            ("product", query.product),
            ("signing_key", "vlek" if query.vlek else "vcek"),
            ("bootloader", query.tcb.bootloader),
            ("tee", query.tcb.tee),
            ("snp", query.tcb.snp),
            ("microcode", query.tcb.microcode),
            ("fmc", query.tcb.fmc),
        ),
    )
