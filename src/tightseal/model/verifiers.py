# SPDX-License-Identifier: Apache-2.0
"""How Intel evidence is judged: by which verifiers, with which named exceptions."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["VerifierException", "VerifierMode"]


class VerifierMode(StrEnum):
    """Which verifiers judge Intel evidence."""

    BOTH = "both"
    NATIVE = "native"
    DCAP_QVL = "dcap-qvl"


class VerifierException(StrEnum):
    """Evidence that one verifier refuses by a rule of its own, accepted by name.

    Accepted only where a release setting names it, only where dcap-qvl failed with
    exactly that rule's error, and then marked ``single_verifier`` in the claims.
    """

    SEPT_VE_ENABLED = "sept_ve_enabled"
    """A TD without SEPT_VE_DISABLE, as on Azure."""

    QE_AUTH_DATA_LENGTH = "qe_auth_data_length"
    """QE authentication data of a legal length other than 32 bytes."""
