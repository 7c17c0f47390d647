# SPDX-License-Identifier: Apache-2.0
"""How a client judges the TLS certificate of a provider."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["TlsTrust"]


class TlsTrust(StrEnum):
    """Whose word counts for a certificate."""

    PUBLIC_CA = "public-ca"
    """Public CAs, and the host's name."""

    EXCHANGE = "exchange"
    """Nobody's: what is exchanged protects itself, as over plain HTTP."""

    ATTESTED = "attested"
    """Evidence in the certificate, against the pin."""
