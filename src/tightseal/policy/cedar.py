# SPDX-License-Identifier: Apache-2.0
"""An optional rule in Cedar: a last word that can only be no.

The policies of a workload are asked after every other rule said yes, so nothing in them
grants what the document refuses. Cedar skips a policy that errs, so that an erring
``forbid`` would become an allow: here every error is a no, and most errors cannot
happen, since the policies are held against a schema when they are compiled.

Needs the library ``cedarpy``, the extra ``cedar``; it is loaded when the first rule is
compiled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any, Final

from tightseal.model.claims import MEASUREMENT_NAMES, Claims
from tightseal.model.keypath import KeyRequest, ProtocolClass
from tightseal.policy.eventlog.facts import IDENTITY_EVENTS, EventFacts
from tightseal.policy.fields import NUMBER_FIELDS, all_names

__all__ = ["MAX_CEDAR_CHARS", "MAX_MARKS", "MAX_NESTING", "CedarRule", "compile_cedar"]

MAX_CEDAR_CHARS: Final = 65_536
"""Longest text of one workload's policies."""

MAX_NESTING: Final = 16
"""Deepest nesting of brackets and ``if``. The parser recurses without a limit of its
own: a deep text would end the whole process."""

MAX_MARKS: Final = 2048
"""Most marks (all but words and strings) in one policy; a long chain of operators is a
deep tree as well."""

_TOKEN: Final = re.compile(
    r'(?P<quiet>//[^\n\r]*|\s+|"(?:\\.|[^"\\])*")|(?P<word>\w+)|(?P<mark>.)'
)
_CLOSING: Final = {")": "(", "]": "[", "}": "{"}

_ACTION: Final = {"type": "Action", "id": "release"}
NO_USE: Final = "none"
"""What ``use`` says where a key is to be released."""

_PLATFORM_IDS: Final = ("ppid", "piid", "fmspc", "chip_id")
_SNP_PARTS: Final = ("bootloader", "tee", "snp", "microcode", "fmc")


@dataclass(frozen=True, slots=True)
class CedarRule:
    """Compiled policies of one workload; safe to use from several threads.

    Attributes:
        text: as it stands in the document.
    """

    text: str
    _policies: Any = field(repr=False, compare=False)

    def allows(
        self,
        *,
        claims: Claims,
        events: EventFacts | None,
        tenant: str,
        workload: str,
        image: str,
        key: KeyRequest,
        protocol: ProtocolClass,
        now: int,
    ) -> bool:
        """Whether the policies allow one key; to be asked after all other rules.

        The question is ``Workload::"tenant/workload"``, ``Action::"release"``,
        ``Key::"purpose"``, with the context of ``docs/cedar.md``. An error of any
        policy is a no, and so is an answer that no ``permit`` stands behind.

        Args:
            claims: from verified evidence.
            events: what the replayed event log proves; ``None`` without one.
            tenant: of the workload.
            workload: its name.
            image: label of the image that fitted.
            key: the key request.
            protocol: the way in.
            now: Unix seconds.
        """
        context = _context(claims, events, key)
        context |= {"image": image, "protocol": protocol.value, "now": now}
        request = {
            "principal": {"type": "Workload", "id": f"{tenant}/{workload}"},
            "action": _ACTION,
            "resource": {"type": "Key", "id": key.purpose},
            "context": context,
        }
        try:
            answer = _library().is_authorized(request, self._policies, "[]")
            said = answer.diagnostics
            return bool(answer.allowed and said.reasons and not said.errors)
        except BaseException as e:
            if not _is_refusal(e):
                raise
            return False


def compile_cedar(text: str) -> CedarRule:
    """Compile the policies of a workload.

    Args:
        text: Cedar policies; their types are held against the schema of the context, so
            that a misspelt attribute, or an optional one without ``has``, is refused.

    Raises:
        ValueError: too long or too deep, no policies, a template, not Cedar, or not
            true to the schema; or the library is missing.
    """
    _check_bounds(text)
    library = _library()
    try:
        policies = library.PolicySet.from_str(text)
        templates, count = policies.templates(), len(policies)
        checked = library.validate_policies(text, _schema()) if count else None
    except BaseException as e:
        if not _is_refusal(e):
            raise
        raise ValueError(f"not Cedar: {e}") from e
    if templates:
        # Never linked, so never judged: a forbid with a slot would forbid nothing.
        raise ValueError("a policy with ?principal or ?resource judges nothing here")
    if checked is None:
        raise ValueError("holds no policy, so nothing would be allowed")
    if not checked.validation_passed:
        raise ValueError("; ".join(str(error) for error in checked.errors))
    return CedarRule(text, policies)


def _library() -> Any:
    try:
        return import_module("cedarpy")
    except ImportError as e:
        message = "a cedar rule needs a library: pip install tightseal[cedar]"
        raise ValueError(message) from e


def _is_refusal(error: BaseException) -> bool:
    """A panic of the library is no ``Exception``; it must not end a worker either."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def _check_bounds(text: str) -> None:
    if len(text) > MAX_CEDAR_CHARS:
        raise ValueError(f"{len(text)} characters, at most {MAX_CEDAR_CHARS}")
    opened: list[str] = []
    marks = 0
    for token in _TOKEN.finditer(text):
        word, mark = token["word"], token["mark"]
        if mark is not None:
            marks = 0 if mark == ";" else marks + 1
        if word == "if" or (mark is not None and mark in "([{"):
            opened.append(word or mark)
        elif mark is not None and mark in _CLOSING:
            _close(opened, _CLOSING[mark])
        elif mark == ";":
            opened.clear()
        if len(opened) > MAX_NESTING:
            raise ValueError(f"nested deeper than {MAX_NESTING}")
        if marks > MAX_MARKS:
            raise ValueError(f"a policy of more than {MAX_MARKS} marks")


def _close(opened: list[str], bracket: str) -> None:
    """Forget a bracket and every ``if`` in it; one that was never opened is no harm."""
    while opened and opened.pop() != bracket:
        pass


def _context(
    claims: Claims, events: EventFacts | None, key: KeyRequest
) -> dict[str, Any]:
    measurements = claims.measurements
    found: dict[str, Any] = {
        "tee": claims.tee.value,
        "trust_domain": str(claims.trust_domain),
        "single_verifier": claims.single_verifier,
        "measurements": {name: value.hex() for name, value in measurements.items()},
        "numbers": {
            name: int.from_bytes(measurements[name], "little")
            for name in MEASUREMENT_NAMES[claims.tee]
            if name in NUMBER_FIELDS and name in measurements
        },
        "platform": _known(claims.platform, _PLATFORM_IDS),
        "events": {
            name: value.hex()
            for name, value in (events.identity if events is not None else {}).items()
        },
        "label": key.label,
        "length": key.length,
        "part": key.part.value,
        "create": key.create,
        "use": NO_USE if key.use is None else key.use.operation.value,
    }
    if claims.tcb is not None:
        found["tcb"] = {
            "status": claims.tcb.status.value,
            "advisories": sorted(claims.tcb.advisory_ids),
            "evaluation": claims.tcb.evaluation_number,
        }
    if claims.snp_tcb is not None:
        found["snp_tcb"] = _known(claims.snp_tcb, _SNP_PARTS)
    return found


def _known(value: object, names: tuple[str, ...]) -> dict[str, str | int]:
    """What is there: bytes as hex, numbers as they are."""
    found = {name: getattr(value, name) for name in names}
    return {
        name: item.hex() if isinstance(item, bytes) else item
        for name, item in found.items()
        if item is not None
    }


@cache
def _schema() -> str:
    """The schema of a question, in Cedar's own syntax."""
    numbers = [name for name in all_names() if name in NUMBER_FIELDS]
    context = {
        "tee": "String",
        "trust_domain": "String",
        "single_verifier": "Bool",
        "measurements": _record(dict.fromkeys(all_names(), "String"), optional=True),
        "numbers": _record(dict.fromkeys(numbers, "Long"), optional=True),
        "platform": _record(dict.fromkeys(_PLATFORM_IDS, "String"), optional=True),
        "events": _record(dict.fromkeys(IDENTITY_EVENTS, "String"), optional=True),
        "label": "String",
        "length": "Long",
        "part": "String",
        "create": "Bool",
        "use": "String",
        "image": "String",
        "protocol": "String",
        "now": "Long",
        "tcb?": _record(
            {"status": "String", "advisories": "Set<String>", "evaluation": "Long"}
        ),
        "snp_tcb?": _record(dict.fromkeys(_SNP_PARTS, "Long"), optional=True),
    }
    fields = ",\n".join(f"{name}: {kind}" for name, kind in context.items())
    return (
        "entity Workload;\nentity Key;\n"
        'action "release" appliesTo { principal: [Workload], resource: [Key], '
        f"context: {{\n{fields}\n}} }};"
    )


def _record(fields: Mapping[str, str], *, optional: bool = False) -> str:
    mark = "?" if optional else ""
    inner = ", ".join(f'"{name}"{mark}: {kind}' for name, kind in fields.items())
    return f"{{ {inner} }}"
