# SPDX-License-Identifier: Apache-2.0
"""Where the fields of SGX and TD reports stand, as data.

Integers are little-endian; offsets count from the start of the body.

Sources: Intel SGX SDK ``sgx_report_body_t``; Intel TDX DCAP Quoting Library API,
sections A.3.2 (TD report 1.0), A.3.3 (1.5); TD 1.5ex as quote version 5, body type 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType
from typing import Final

from tightseal.model.claims import MEASUREMENT_NAMES, Tee

__all__ = [
    "BODY_BYTES",
    "FIELDS",
    "MEASUREMENT_FIELDS",
    "SGX_FIELDS",
    "TD_FIELDS",
    "BodyType",
]


class BodyType(IntEnum):
    """Kind of report, by the numbers of a version 5 body descriptor."""

    SGX = 1
    TD10 = 2
    TD15 = 3
    TD15EX = 4


BODY_BYTES: Final[Mapping[BodyType, int]] = MappingProxyType(
    {
        BodyType.SGX: 384,
        BodyType.TD10: 584,
        BodyType.TD15: 648,
        BodyType.TD15EX: 885,
    }
)
"""Size of each report."""


def _slices(table: dict[str, tuple[int, int]]) -> Mapping[str, slice]:
    return MappingProxyType(
        {n: slice(at, at + size) for n, (at, size) in table.items()}
    )


SGX_FIELDS: Final = _slices(
    {
        "cpu_svn": (0, 16),
        "misc_select": (16, 4),
        "isv_ext_prod_id": (32, 16),
        "attributes": (48, 16),
        "mrenclave": (64, 32),
        "mrsigner": (128, 32),
        "config_id": (192, 64),
        "isv_prod_id": (256, 2),
        "isv_svn": (258, 2),
        "config_svn": (260, 2),
        "isv_family_id": (304, 16),
        "report_data": (320, 64),
    }
)
"""Name to place in an SGX report body; the QE report has this form too."""

TD_FIELDS: Final = _slices(
    {
        "tee_tcb_svn": (0, 16),
        "mr_seam": (16, 48),
        "mr_signer_seam": (64, 48),
        "seam_attributes": (112, 8),
        "td_attributes": (120, 8),
        "xfam": (128, 8),
        "mrtd": (136, 48),
        "mr_config_id": (184, 48),
        "mr_owner": (232, 48),
        "mr_owner_config": (280, 48),
        "rtmr0": (328, 48),
        "rtmr1": (376, 48),
        "rtmr2": (424, 48),
        "rtmr3": (472, 48),
        "report_data": (520, 64),
        "tee_tcb_svn2": (584, 16),
        "mr_service_td": (600, 48),
    }
)
"""Name to place in a TD report; the last two exist from TD 1.5 on."""

FIELDS: Final[Mapping[BodyType, Mapping[str, slice]]] = MappingProxyType(
    {
        BodyType.SGX: SGX_FIELDS,
        BodyType.TD10: TD_FIELDS,
        BodyType.TD15: TD_FIELDS,
        BodyType.TD15EX: TD_FIELDS,
    }
)
"""The table of each kind of report."""


def _measurements(
    table: Mapping[str, slice], tee: Tee
) -> tuple[tuple[str, slice], ...]:
    return tuple((name, table[name]) for name in MEASUREMENT_NAMES[tee])


MEASUREMENT_FIELDS: Final[Mapping[Tee, tuple[tuple[str, slice], ...]]] = (
    MappingProxyType(
        {
            Tee.SGX: _measurements(SGX_FIELDS, Tee.SGX),
            Tee.TDX: _measurements(TD_FIELDS, Tee.TDX),
        }
    )
)
"""The measurements of each TEE and their places, in the order of the model."""
