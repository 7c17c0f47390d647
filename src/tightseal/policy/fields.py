# SPDX-License-Identifier: Apache-2.0
"""What policy knows about each measurement: its length, and how it may be selected."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.policy.eventlog.facts import IDENTITY_EVENTS

__all__ = [
    "CODE",
    "DEBUG_BIT",
    "EVENT_BASE",
    "EVENT_FIELDS",
    "MEASUREMENT_BYTES",
    "MINIMUM_FIELDS",
    "NUMBER_FIELDS",
    "OWNER_BOUND",
    "PROVIDER_MEASUREMENT",
    "ZERO_IS_A_VALUE",
    "all_names",
    "event_field",
]

MEASUREMENT_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {
        "mrtd": 48,
        "rtmr0": 48,
        "rtmr1": 48,
        "rtmr2": 48,
        "rtmr3": 48,
        "mr_config_id": 48,
        "mr_owner": 48,
        "mr_owner_config": 48,
        "mr_seam": 48,
        "mr_signer_seam": 48,
        "mr_service_td": 48,
        "td_attributes": 8,
        "xfam": 8,
        "tee_tcb_svn": 16,
        "mrenclave": 32,
        "mrsigner": 32,
        "isv_prod_id": 2,
        "isv_svn": 2,
        "isv_ext_prod_id": 16,
        "isv_family_id": 16,
        "config_id": 64,
        "config_svn": 2,
        "attributes": 16,
        "misc_select": 4,
        "cpu_svn": 16,
        "snp_measurement": 48,
        "host_data": 32,
        "id_key_digest": 48,
        "author_key_digest": 48,
        "family_id": 16,
        "image_id": 16,
        "guest_svn": 4,
        "vmpl": 4,
        "policy": 8,
        "report_id": 32,
        "reported_tcb": 8,
    }
)
"""Bytes of each measurement (TDX module ABI TDREPORT; SGX REPORT; SEV-SNP ABI table 23
ATTESTATION_REPORT)."""

NUMBER_FIELDS: Final = frozenset(
    {"isv_prod_id", "isv_svn", "config_svn", "guest_svn", "vmpl"}
)
"""Little-endian integers, which a document may write as numbers."""

MINIMUM_FIELDS: Final = frozenset({"isv_svn", "config_svn", "guest_svn"})
"""Security versions: the only fields where more is meant to be better."""

ZERO_IS_A_VALUE: Final = NUMBER_FIELDS | {
    "td_attributes",
    "xfam",
    "tee_tcb_svn",
    "attributes",
    "misc_select",
    "cpu_svn",
    "policy",
    "reported_tcb",
}
"""Flags and numbers; in every other field all zero means that nothing was set."""

OWNER_BOUND: Final[Mapping[Tee, tuple[str, ...]]] = MappingProxyType(
    {
        Tee.TDX: ("mr_config_id", "mr_owner", "mr_owner_config"),
        Tee.SGX: ("config_id",),
        Tee.SNP: ("host_data", "id_key_digest", "author_key_digest"),
    }
)
"""Fields through which whoever starts a workload binds it to an owner."""

PROVIDER_MEASUREMENT: Final[Mapping[Tee, str]] = MappingProxyType(
    {Tee.SGX: "mrenclave", Tee.SNP: "snp_measurement"}
)
"""What names a provider. A TD is not here: a host boots what it likes over its MRTD."""

CODE: Final[Mapping[Tee, tuple[tuple[str, ...], ...]]] = MappingProxyType(
    {
        Tee.TDX: (("mrtd",), ("rtmr1",), ("rtmr2",)),
        Tee.SGX: (("mrenclave", "mrsigner"),),
        Tee.SNP: (("snp_measurement",),),
    }
)
"""What names the code that runs: of each group, one must be selected. Where firmware or
kernel is free, whoever replaces it can extend the later registers at will."""

EVENT_BASE: Final = ("mrtd", "rtmr0", "rtmr1", "rtmr2")
"""What measures a TD's identity events, and what that was handed by its host (RTMR0:
ACPI tables are code too); where one is free, events can be made up."""

DEBUG_BIT: Final[Mapping[Tee, tuple[str, int]]] = MappingProxyType(
    {
        Tee.TDX: ("td_attributes", 1 << 0),
        Tee.SGX: ("attributes", 1 << 1),
        Tee.SNP: ("policy", 1 << 19),
    }
)
"""The field and little-endian bit that open a workload to its host."""


def event_field(name: str) -> str:
    """An identity event's name among measurements, none of which has a colon."""
    return f"event:{name}"


EVENT_FIELDS: Final = tuple(event_field(name) for name in IDENTITY_EVENTS)
"""Every identity event as it stands among measurements."""


def all_names() -> tuple[str, ...]:
    """Every measurement name, in the order of ``MEASUREMENT_NAMES``."""
    return tuple(name for names in MEASUREMENT_NAMES.values() for name in names)
