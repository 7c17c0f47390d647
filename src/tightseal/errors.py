# SPDX-License-Identifier: Apache-2.0
"""One tree of errors, by who is at fault.

Every error has a stable :class:`Code` and two texts. ``public`` is what an untrusted
caller may learn: a fixed sentence per code. ``detail`` is for the operator: what was
expected and what came. Neither ever holds key material.

The families say who has to act:

* :class:`EvidenceError`: the evidence, so whoever presented it.
* :class:`CollateralError`: the collateral, or the place it came from.
* :class:`PolicyError`: nobody; the evidence is authentic and the answer is no.
* :class:`KeyReleaseError`: the key material or the envelope.
* :class:`ServiceError`: the provider, its host, its settings, or the request's form.
"""

from __future__ import annotations

from typing import Final

from tightseal.codeinfo import CODES, CodeInfo
from tightseal.codes import Code, Fault

__all__ = [
    "CODES",
    "Code",
    "CodeInfo",
    "CollateralError",
    "EvidenceError",
    "Fault",
    "KeyReleaseError",
    "PlatformError",
    "PolicyError",
    "ProviderError",
    "RequestError",
    "ServiceError",
    "SettingsError",
    "TightsealError",
    "retry_later",
]

MAX_DETAIL_CHARS: Final = 1000
"""Longest operator text; evidence is attacker-chosen and ends up in logs."""


class TightsealError(Exception):
    """Base of every error that Tightseal raises.

    Args:
        code: the stable code.
        detail: for the operator: what was expected and what came. Cut at
            ``MAX_DETAIL_CHARS``; control characters are replaced, since parts of it
            may come from an attacker and end up in a terminal or a log.

    Attributes:
        checks: the verifier's named checks up to the one that failed; empty where the
            error did not come from a verifier.
        retry_after: seconds after which the same request may get another answer;
            ``None`` where nothing is known of that.
        request_id: names the request in the provider's log, where a client raises what
            an answer told it; ``None`` otherwise.
    """

    checks: tuple[object, ...] = ()
    retry_after: int | None = None
    request_id: str | None = None

    def __init__(self, code: Code, detail: str) -> None:
        cut = detail[:MAX_DETAIL_CHARS]
        self.code = code
        self.detail = "".join(
            c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in cut
        )
        super().__init__(f"{code.value}: {self.detail}")

    def __reduce__(self) -> tuple[type[TightsealError], tuple[Code, str]]:
        """Rebuild from code and detail, so that errors cross process borders."""
        return type(self), (self.code, self.detail)

    @property
    def info(self) -> CodeInfo:
        """The code's meaning: who is at fault, status, public text, remedy."""
        return CODES[self.code]

    @property
    def public(self) -> str:
        """The sentence that an untrusted caller may see."""
        return self.info.public


class EvidenceError(TightsealError):
    """The evidence is not authentic, or not an answer to the challenge."""


class CollateralError(TightsealError):
    """The collateral is missing, malformed, out of date or older than seen before."""


class PolicyError(TightsealError):
    """The evidence is authentic, and the policy says no.

    Attributes:
        reasons: every rule judged, the last one being the one that said no.
    """

    reasons: tuple[object, ...] = ()


class KeyReleaseError(TightsealError):
    """A key cannot be derived, sealed or opened."""


class ServiceError(TightsealError):
    """The provider, its host, its settings or the form of the request is at fault."""


class RequestError(ServiceError):
    """The request does not have the documented form."""


class SettingsError(ServiceError):
    """The settings cannot be used."""


class PlatformError(ServiceError):
    """The platform that the provider or workload stands on did not do its part."""


class ProviderError(ServiceError):
    """Raised by a client: the provider cannot be trusted, reached, or refused."""


def retry_later(code: Code, detail: str, *, seconds: int) -> ServiceError:
    """A refusal that passes by itself, with the seconds after which to ask again."""
    error = ServiceError(code, detail)
    error.retry_after = max(1, seconds)
    return error
