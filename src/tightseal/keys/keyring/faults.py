# SPDX-License-Identifier: Apache-2.0
"""The keyring's errors, in one form each."""

from __future__ import annotations

from tightseal.errors import Code, KeyReleaseError

__all__ = ["malformed", "mismatch", "not_allowed", "tampered", "unavailable"]


def malformed(detail: str) -> KeyReleaseError:
    """What was read has not the form of a keyring, or passes a bound."""
    return KeyReleaseError(Code.KEYRING_MALFORMED, detail)


def tampered(detail: str) -> KeyReleaseError:
    """What was read is not what a holder of the keyring key wrote."""
    return KeyReleaseError(Code.KEYRING_TAMPERED, detail)


def mismatch(detail: str) -> KeyReleaseError:
    """The keyring is authentic, and for other terms than these."""
    return KeyReleaseError(Code.KEYRING_MISMATCH, detail)


def not_allowed(detail: str) -> KeyReleaseError:
    """A slot of this kind may not be made or used here."""
    return KeyReleaseError(Code.SLOT_NOT_ALLOWED, detail)


def unavailable(detail: str) -> KeyReleaseError:
    """A slot cannot be opened here."""
    return KeyReleaseError(Code.SLOT_UNAVAILABLE, detail)
