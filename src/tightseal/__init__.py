# SPDX-License-Identifier: Apache-2.0
"""Persistent keys for confidential workloads.

Verify evidence as of a time, with collateral from a file:

    from pathlib import Path
    from tightseal import FileSource, verify

    claims = verify(
        Path("quote.bin").read_bytes(),
        collateral=FileSource(Path("collateral.json")),
        now=1751624191,
    )
    print(claims.tcb.status, claims.measurements["mrtd"].hex())

Get a key, inside a workload: see :class:`Client`. Everything raises
:class:`TightsealError`, whose ``code`` is stable.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from tightseal._version import __version__

if TYPE_CHECKING:
    from tightseal.collateral.bundle import FileSource
    from tightseal.errors import (
        Code,
        CollateralError,
        EvidenceError,
        KeyReleaseError,
        PolicyError,
        ServiceError,
        TightsealError,
    )
    from tightseal.evidence.once import verify
    from tightseal.guest.async_client import AsyncClient
    from tightseal.guest.client import Client
    from tightseal.guest.exchange import Terms
    from tightseal.guest.pins import ProviderPin, read_pin
    from tightseal.model.claims import Claims
    from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
    from tightseal.model.keyuse import KeyUse, Operation
    from tightseal.model.tls import TlsTrust
    from tightseal.release import Provider

__all__ = [
    "AsyncClient",
    "Claims",
    "Client",
    "Code",
    "CollateralError",
    "EvidenceError",
    "FileSource",
    "KeyPart",
    "KeyReleaseError",
    "KeyRequest",
    "KeyType",
    "KeyUse",
    "Operation",
    "PolicyError",
    "Provider",
    "ProviderPin",
    "ServiceError",
    "Terms",
    "TightsealError",
    "TlsTrust",
    "__version__",
    "read_pin",
    "verify",
]

_HOMES: Final = {
    "AsyncClient": "tightseal.guest.async_client",
    "Claims": "tightseal.model.claims",
    "Client": "tightseal.guest.client",
    "FileSource": "tightseal.collateral.bundle",
    "KeyPart": "tightseal.model.keypath",
    "KeyRequest": "tightseal.model.keypath",
    "KeyType": "tightseal.model.keypath",
    "KeyUse": "tightseal.model.keyuse",
    "Operation": "tightseal.model.keyuse",
    "Provider": "tightseal.release",
    "ProviderPin": "tightseal.guest.pins",
    "Terms": "tightseal.guest.exchange",
    "TlsTrust": "tightseal.model.tls",
    "read_pin": "tightseal.guest.pins",
    "verify": "tightseal.evidence.once",
}


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used: commands must start quickly."""
    if name not in __all__:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES.get(name, "tightseal.errors")), name)


def __dir__() -> list[str]:
    """The public names."""
    return list(__all__)
