# SPDX-License-Identifier: Apache-2.0
"""The SGX extension of PCK certificates."""

from dataclasses import replace

from fuzz_scenes import cast

from tightseal.errors import EvidenceError
from tightseal.evidence.intel.pck import parse_pck_extension


def seeds() -> list[bytes]:
    fields = cast().bench.platform.pck_fields
    other = replace(fields, piid=None, flags=None, sgx_type=0)
    return [fields.extension(), other.extension()]


def one(data: bytes) -> None:
    found = parse_pck_extension(data, fault=EvidenceError)
    assert (len(found.ppid), len(found.fmspc), len(found.components)) == (16, 6, 16)
