# SPDX-License-Identifier: Apache-2.0
"""The tables of the documentation, each printed from the values that the code uses."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import msgspec.inspect as shape

from tightseal.cli import build_app
from tightseal.collateral.guard import RELEASE_FLOORS
from tightseal.errors import CODES
from tightseal.evidence.intel.verifier import CHECKS as INTEL_CHECKS
from tightseal.evidence.roots import VENDOR_KEYS, root_key_id
from tightseal.evidence.snp.verifier import CHECKS as SNP_CHECKS
from tightseal.guest.attested_tls import CERTIFICATE_CHECKS
from tightseal.guest.challenge import CHALLENGE_CHECKS
from tightseal.guest.public_key import PUBLIC_KEY_CHECKS
from tightseal.guest.response import RESPONSE_CHECKS
from tightseal.model.claims import MEASUREMENT_NAMES
from tightseal.model.labels import Label
from tightseal.model.settings import ALWAYS_BOUND, ReleaseSettings
from tightseal.service.load import host_variables
from tightseal.service.metricinfo import LABELS, METRICS
from tightseal.service.settings import HostSettings

__all__ = [
    "client_checks",
    "codes",
    "commands",
    "host_settings",
    "intel_checks",
    "labels",
    "measurements",
    "metric_labels",
    "metrics",
    "release_floors",
    "release_settings",
    "snp_checks",
    "table",
    "vendor_roots",
]

NONE: Final = "none"
_ITALIC_NOTE: Final = re.compile(r"\*(\[(?:default|choices)[^]]*\])\*")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; cells stay on one line, and a bar does not end a cell."""
    lines = [_row(head), _row(["---"] * len(head)), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    clean = (
        " ".join(c.split()).replace("|", "\\|").replace("<", "&lt;") for c in cells
    )
    return f"| {' | '.join(clean)} |"


def _code(text: str) -> str:
    return f"`{text}`"


def codes() -> str:
    """Every stable code: who acts, the HTTP status, both texts' fixed parts."""
    return table(
        ("Code", "At fault", "HTTP", "Whoever asked learns", "The operator should"),
        (
            (
                _code(code.value),
                info.fault.value,
                str(info.status),
                info.public,
                info.remedy or "see the detail in the log",
            )
            for code, info in CODES.items()
        ),
    )


def intel_checks() -> str:
    """The numbered checks of the Intel verifier."""
    return table(
        ("", "Check", "What must hold", "Source"),
        (
            (str(rule.number), _code(rule.name), rule.rule, rule.spec)
            for rule in INTEL_CHECKS
        ),
    )


def snp_checks() -> str:
    """The numbered checks of the SEV-SNP verifier."""
    return table(
        ("", "Check", "What must hold, and its source"),
        (
            (str(number), _code(name), spec)
            for number, (name, spec) in enumerate(SNP_CHECKS, start=1)
        ),
    )


def client_checks() -> str:
    """The checks of a client, for all that a provider tells it."""
    rows = [
        ("certificate", CERTIFICATE_CHECKS),
        ("challenge", CHALLENGE_CHECKS),
        ("response", RESPONSE_CHECKS),
        ("public half", PUBLIC_KEY_CHECKS),
    ]
    return table(
        ("Of the", "In this order"),
        ((what, ", ".join(_code(name) for name, _ in checks)) for what, checks in rows),
    )


def vendor_roots() -> str:
    """The root keys that are shipped, with their provenance."""
    return table(
        ("Root", "Published at", "SHA-256 of the key (SPKI, DER)", "Root key id"),
        (
            (
                f"{key.vendor.value} {key.product}".strip(),
                key.source,
                _code(key.spki_sha256),
                _code(root_key_id(key.spki)),
            )
            for key in VENDOR_KEYS
        ),
    )


def release_floors() -> str:
    """The floors that this release puts under Intel's collateral."""
    return table(
        ("Trust domain", "Kind", "Issued at or after", "Number at least"),
        (
            (
                floor.trust_domain,
                _code(floor.kind),
                datetime.fromtimestamp(floor.issued_at, UTC).strftime("%Y-%m-%d"),
                str(floor.number),
            )
            for floor in RELEASE_FLOORS
        ),
    )


def measurements() -> str:
    """Every measurement name, and when its value enters a measured key."""
    selected = ReleaseSettings().identity_selections()

    def rows() -> Iterator[tuple[str, str, str]]:
        for tee, names in MEASUREMENT_NAMES.items():
            for name in names:
                enters = "if selected"
                if name in ALWAYS_BOUND[tee]:
                    enters = "always"
                elif name in selected[tee]:
                    enters = "by default"
                yield tee.value, _code(name), enters

    return table(("TEE", "Measurement", "Enters a measured key"), rows())


def labels() -> str:
    """The registry of labels."""
    return table(
        ("Label", "Used for"),
        ((_code(label.value), label.value.split("/")[2]) for label in Label),
    )


def host_settings() -> str:
    """Every host setting."""
    by_path = {path: name for name, path in host_variables().items()}

    def rows() -> Iterator[tuple[str, ...]]:
        for path, field, _ in _leaves(HostSettings):
            kind, bounds = _described(field.type)
            variable = by_path.get(path)
            yield (
                _code(".".join(path)),
                kind,
                _default(field.default),
                bounds,
                _meaning(field.type),
                _code(variable) if variable else "file only",
            )

    head = ("Setting", "Type", "Default", "Bound", "Meaning", "Environment")
    return table(head, rows())


def release_settings() -> str:
    """Every release setting."""

    def rows() -> Iterator[tuple[str, ...]]:
        for path, field, holder in _leaves(ReleaseSettings):
            kind, bounds = _described(field.type)
            yield (
                _code(".".join(path)),
                kind,
                _default(field.default),
                bounds,
                _attribute(holder, path[-1]),
            )

    return table(("Setting", "Type", "Default", "Bound", "Meaning"), rows())


def _leaves(
    kind: type[Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], shape.Field, type[Any]]]:
    """Every setting below a struct: its path, its field and the struct it is in."""
    described = shape.type_info(kind)
    assert isinstance(described, shape.StructType)
    for field in described.fields:
        path = (*above, field.name)
        if isinstance(field.type, shape.StructType):
            yield from _leaves(field.type.cls, path)
        else:
            yield path, field, kind


def _described(kind: shape.Type) -> tuple[str, str]:
    """A type in words, and its bounds."""
    if isinstance(kind, shape.Metadata):
        return _described(kind.type)
    if isinstance(kind, shape.EnumType):
        members = " or ".join(_code(str(m.value)) for m in kind.cls)
        return "choice", members
    if isinstance(kind, shape.VarTupleType):
        inner, bounds = _described(kind.item_type)
        at_most = "" if kind.max_length is None else f"at most {kind.max_length}"
        return f"list of {inner}s", "; ".join(b for b in (at_most, bounds) if b)
    if isinstance(kind, shape.IntType):
        return "whole number", _range(kind)
    if isinstance(kind, shape.FloatType):
        return "number", _range(kind)
    if isinstance(kind, shape.BoolType):
        return "boolean", ""
    assert isinstance(kind, shape.StrType)
    pattern = f"matches {_code(kind.pattern)}" if kind.pattern else ""
    longest = f"at most {kind.max_length} characters" if kind.max_length else ""
    return "text", ", ".join(b for b in (longest, pattern) if b)


def _range(kind: shape.IntType | shape.FloatType) -> str:
    parts = (
        ("at least", kind.ge),
        ("above", kind.gt),
        ("at most", kind.le),
        ("below", kind.lt),
    )
    return ", ".join(f"{word} {value}" for word, value in parts if value is not None)


def _default(value: Any) -> str:
    text = json.dumps(msgspec.to_builtins(value))
    return _code(text)


def _meaning(kind: shape.Type) -> str:
    extra = kind.extra_json_schema if isinstance(kind, shape.Metadata) else None
    return str((extra or {}).get("description", ""))


def _attribute(holder: type[Any], name: str) -> str:
    """What a struct's docstring says of one of its attributes."""
    lines = inspect.cleandoc(holder.__doc__ or "").splitlines()
    entries: list[tuple[str, str]] = []
    for line in lines[lines.index("Attributes:") + 1 :]:
        names, colon, text = line.strip().partition(": ")
        if colon and not line.startswith(" " * 5):
            entries.append((names, text))
        elif entries:
            names, before = entries[-1]
            entries[-1] = (names, f"{before} {line.strip()}")
    found = next(text for names, text in entries if name in names.split(", "))
    return found.replace("``", "`").removesuffix(".")


def metrics() -> str:
    """Every metric: what it is, and what to do about it."""
    return table(
        ("Metric", "Kind", "Unit", "Labels", "Meaning", "Watch, and do"),
        (
            (
                _code(m.name),
                m.kind.value,
                m.unit,
                ", ".join(_code(label) for label in m.labels) or NONE,
                m.meaning,
                m.watch,
            )
            for m in METRICS
        ),
    )


def metric_labels() -> str:
    """Every label of the metrics, and all that it can be."""
    return table(
        ("Label", "One of"),
        (
            (_code(name), label.text or ", ".join(map(_code, sorted(label.values))))
            for name, label in sorted(LABELS.items())
        ),
    )


def commands() -> str:
    """Every command with its help, as ``--help`` says it."""
    text = build_app().generate_docs(recursive=True)
    # Title, usage and table of contents are the document's own.
    body = text[text.index("## tightseal ") :]
    lines: list[str] = []
    command = ""
    for line in _ITALIC_NOTE.sub(r"\1", body).splitlines():
        if line.startswith("#"):
            command = line.lstrip("# ")
        usage = lines[-1:] == ["```console"]
        lines.append(_usage(command, line) if usage else line.rstrip())
    return "\n".join(lines)


def _usage(command: str, line: str) -> str:
    """A usage line without the name of whichever program is printing it."""
    words = line.split()
    arguments = (w.startswith(("[", "--")) or w.isupper() for w in words)
    first = next((at for at, is_one in enumerate(arguments) if is_one), len(words))
    return " ".join([command, *words[first:]])
