# SPDX-License-Identifier: Apache-2.0
"""The trace of a decision: every rule with what was expected and what came."""

from __future__ import annotations

from tightseal.errors import Code, PolicyError
from tightseal.model.grant import Reason
from tightseal.policy.compiled import Image

__all__ = ["Trace"]


class Trace:
    """Collects reasons, and raises at the first no where it is told to stop there.

    Args:
        stop: raise at the first rule that does not hold; else go on and remember.

    Attributes:
        reasons: every rule judged.
        code: of the first rule that did not hold.
        image: the image whose rules were judged.
        nearest: what keeps the nearest image from fitting.
    """

    __slots__ = ("code", "image", "nearest", "reasons", "stop")

    def __init__(self, *, stop: bool) -> None:
        self.stop = stop
        self.reasons: list[Reason] = []
        self.code: Code | None = None
        self.image: Image | None = None
        self.nearest = ""

    def judge(
        self, code: Code, rule: str, expected: str, got: str, *, holds: bool
    ) -> None:
        """Note a rule.

        Raises:
            PolicyError: it does not hold, and the trace stops there.
        """
        self.reasons.append(Reason(rule, expected, got, holds))
        if holds:
            return
        self.code = self.code or code
        if self.stop:
            raise self._error(code, self.reasons[-1])

    def note(self, rule: str, expected: str, got: str) -> None:
        """Note what needs no judging."""
        self.reasons.append(Reason(rule, expected, got, satisfied=True))

    def refused(self, code: Code, rule: str, *, expected: str, got: str) -> PolicyError:
        """The error of a rule that does not hold."""
        self.reasons.append(Reason(rule, expected, got, satisfied=False))
        return self._error(code, self.reasons[-1])

    def _error(self, code: Code, last: Reason) -> PolicyError:
        detail = f"{last.rule}: expected {last.expected}, got {last.got}"
        if self.nearest:
            detail = f"{self.nearest}; {detail}"
        error = PolicyError(code, detail)
        error.reasons = tuple(self.reasons)
        return error
