# SPDX-License-Identifier: Apache-2.0
"""The store's errors, in one form each."""

from __future__ import annotations

from tightseal.errors import Code, ServiceError

__all__ = ["rolled_back", "tampered", "too_large", "unavailable"]


def tampered(detail: str) -> ServiceError:
    """What was found is not what was written."""
    return ServiceError(Code.STATE_TAMPERED, detail)


def rolled_back(detail: str) -> ServiceError:
    """What was found is authentic, and older than what was seen."""
    return ServiceError(Code.STATE_ROLLED_BACK, detail)


def unavailable(doing: str, error: Exception) -> ServiceError:
    """The engine failed; what it says is for the operator."""
    name = getattr(error, "sqlite_errorname", None) or type(error).__name__
    return ServiceError(Code.STATE_UNAVAILABLE, f"{doing}: {name}: {error}")


def too_large(detail: str) -> ServiceError:
    """A bound of the model was passed."""
    return ServiceError(Code.STATE_TOO_LARGE, detail)
