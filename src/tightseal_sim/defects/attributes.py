# SPDX-License-Identifier: Apache-2.0
"""Authentic evidence of workloads whose attributes give their secrets away."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from tightseal.errors import Code
from tightseal.model.claims import Tee
from tightseal.model.verifiers import VerifierException
from tightseal_sim.defects.bench import REPORT_DATA, Bench
from tightseal_sim.defects.case import Case, Expect
from tightseal_sim.intel.quote import QuoteForm
from tightseal_sim.intel.structures import AttributeFlags
from tightseal_sim.intel.td import SEPT_VE_DISABLE, TD_MIGRATABLE

__all__ = ["enclave_attributes", "td_attributes"]

_RESERVED = "Reserved bits in TD attributes are set"
_PROFILING = "TD profiling is enabled"

_TD: tuple[tuple[int | None, str, str, dict[str, Any], Code, str], ...] = (
    (74, "td_debug", "TD DEBUG", {"debug": True},
     Code.DEBUG_ENABLED, "Debug mode is enabled"),
    (75, "td_reserved_bit", "TD reserved bit 32", {"extra": 1 << 32},
     Code.TD_ATTRIBUTES_RESERVED, _RESERVED),
    (None, "td_reserved_bit_1", "TD reserved bit 1", {"extra": 1 << 1},
     Code.TD_ATTRIBUTES_RESERVED, _RESERVED),
    (None, "td_reserved_bit_23", "TD reserved bit 23", {"extra": 1 << 23},
     Code.TD_ATTRIBUTES_RESERVED, _RESERVED),
    (77, "td_migratable", "TD MIGRATABLE", {"extra": TD_MIGRATABLE},
     Code.TD_MIGRATABLE, "TD migration is enabled"),
    (78, "td_profiling_bit_4", "TD profiling, bit 4", {"extra": 1 << 4},
     Code.TD_PROFILING, _PROFILING),
    (None, "td_profiling_bit_6", "TD profiling, bit 6", {"extra": 1 << 6},
     Code.TD_PROFILING, _PROFILING),
    (None, "td_service_td_extension", "TD SERVTD_EXT", {"extra": 1 << 17},
     Code.TD_SERVICE_TD, "SERVTD_EXT is enabled"),
)  # fmt: skip


def td_attributes(bench: Bench) -> Iterator[Case]:
    """TDs that the host may read, profile, move or bind a service TD to."""
    for number, name, title, changes, code, message in _TD:
        image: dict[str, Any] = dict(changes)
        if extra := image.pop("extra", 0):
            image["attributes"] = SEPT_VE_DISABLE | extra
        yield bench.case(
            name,
            title,
            Expect.refuse(code, message),
            number=number,
            evidence=bench.td_parts(**image),
        )
    yield bench.case(
        "td_without_sept_ve_disable",
        "TD without SEPT_VE_DISABLE",
        replace(
            Expect.refuse(Code.SEPT_VE_ENABLED, "SEPT_VE_DISABLE is not enabled"),
            exception=VerifierException.SEPT_VE_ENABLED,
        ),
        number=76,
        evidence=bench.td_parts(attributes=0),
    )
    for form in (QuoteForm.V5_TD15, QuoteForm.V5_TD15EX):
        yield bench.case(
            f"td_mr_service_td_{form.name.lower()}",
            f"mr_service_td not zero ({form.name})",
            Expect.refuse(Code.TD_SERVICE_TD, "Invalid MR service TD"),
            number=81 if form is QuoteForm.V5_TD15 else None,
            evidence=bench.td_parts(form, mr_service_td=b"\1" * 48),
        )


def enclave_attributes(bench: Bench) -> Iterator[Case]:
    """Enclaves that are debuggable, or that no hardware would run so."""
    flags = bench.enclave.image.flags
    for number, name, title, wrong, code, message in (
        (82, "sgx_debug", "SGX DEBUG", flags | AttributeFlags.DEBUG,
         Code.DEBUG_ENABLED, "Debug mode is enabled"),
        (83, "sgx_without_init", "SGX without INIT", flags & ~AttributeFlags.INIT,
         Code.SGX_NOT_INITIALISED, None),
        (83, "sgx_without_mode64bit", "SGX without MODE64BIT",
         flags & ~AttributeFlags.MODE64BIT, Code.SGX_NOT_64BIT, None),
    ):  # fmt: skip
        body = replace(bench.enclave.body, flags=wrong, report_data=REPORT_DATA)
        yield bench.case(
            name,
            title,
            Expect.refuse(code, message),
            number=number,
            tee=Tee.SGX,
            evidence=bench.platform.sgx_quote_parts(body),
        )
