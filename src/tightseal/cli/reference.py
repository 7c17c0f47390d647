# SPDX-License-Identifier: Apache-2.0
"""The generated parts of the documentation: written, or checked against the code.

    python -m tightseal.cli.reference --write | --check [--docs FOLDER]

A block stands between ``<!-- generated:NAME -->`` and ``<!-- end generated -->``, each
at the start of a line of a Markdown file. Tables of codes, checks, settings and
commands are printed from the values that the program itself uses, so that they cannot
say anything else.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tightseal.cli import reference_examples as examples
from tightseal.cli import reference_tables as tables
from tightseal.evidence.differences import differences_markdown
from tightseal.policy.schema import schema_document

__all__ = ["BLOCKS", "DOCS", "Change", "changes", "main", "rewritten"]

DOCS: Final = Path(__file__).resolve().parents[3] / "docs"
"""The documentation of this checkout; an installed package has none."""

BLOCKS: Final[Mapping[str, Callable[[], str]]] = MappingProxyType(
    {
        "codes": tables.codes,
        "differences": differences_markdown,
        "intel-checks": tables.intel_checks,
        "snp-checks": tables.snp_checks,
        "client-checks": tables.client_checks,
        "vendor-roots": tables.vendor_roots,
        "release-floors": tables.release_floors,
        "measurements": tables.measurements,
        "labels": tables.labels,
        "exchange-example": examples.exchange_example,
        "key-example": examples.key_example,
        "host-settings": tables.host_settings,
        "release-settings": tables.release_settings,
        "metrics": tables.metrics,
        "metric-labels": tables.metric_labels,
        "commands": tables.commands,
    }
)
"""Every generated block, and what prints it."""

SCHEMA_FILE: Final = "policy.schema.json"
"""The JSON Schema of policy documents, generated as a whole."""

EXIT_FRESH: Final = 0
EXIT_STALE: Final = 1
EXIT_UNREADABLE: Final = 2

_BLOCK: Final = re.compile(
    r"^<!-- generated:(?P<name>[^\n]*?) -->\n(?P<body>.*?)^<!-- end generated -->",
    re.DOTALL | re.MULTILINE,
)
_MARKER: Final = re.compile(r"^<!-- (?:generated:|end generated)", re.MULTILINE)


class MarkerError(Exception):
    """A block that cannot be filled: an unknown name, or a marker without its other."""


@dataclass(frozen=True, slots=True)
class Change:
    """A file that its generated blocks would change.

    Attributes:
        path: the file.
        text: what it should be.
        stale: the names of the blocks that differ.
    """

    path: Path
    text: str
    stale: tuple[str, ...]


def rewritten(
    text: str, blocks: Mapping[str, Callable[[], str]] = BLOCKS
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A document with fresh blocks, the names that were stale, and all names in it.

    Raises:
        MarkerError: an unknown block, or a marker without its other.
    """
    stale: list[str] = []
    names: list[str] = []

    def fresh(block: re.Match[str]) -> str:
        name, body = block["name"], block["body"]
        if name not in blocks:
            message = f"no block {name!r}, expected one of {', '.join(blocks)}"
            raise MarkerError(message)
        if _MARKER.search(body):
            message = f"block {name!r} does not end before the next begins"
            raise MarkerError(message)
        wanted = f"\n{blocks[name]().strip()}\n\n"
        names.append(name)
        if body != wanted:
            stale.append(name)
        return f"<!-- generated:{name} -->\n{wanted}<!-- end generated -->"

    new = _BLOCK.sub(fresh, text)
    if len(_MARKER.findall(new)) != 2 * len(names):
        message = "a marker of a generated block without its other"
        raise MarkerError(message)
    return new, tuple(stale), tuple(names)


def changes(
    docs: Path, blocks: Mapping[str, Callable[[], str]] = BLOCKS
) -> tuple[Change, ...]:
    """Every file below ``docs`` that its blocks would change.

    Raises:
        MarkerError: a block cannot be filled, or one that exists stands nowhere.
        OSError, UnicodeError: a file cannot be read.
    """
    found: list[Change] = []
    seen: set[str] = set()
    for path, text in _documents(docs):
        try:
            new, stale, names = rewritten(text, blocks)
        except MarkerError as e:
            message = f"{path}: {e}"
            raise MarkerError(message) from e
        seen.update(names)
        if stale:
            found.append(Change(path, new, stale))
    schema = docs / SCHEMA_FILE
    if schema.exists() and schema.read_bytes() != schema_document():
        found.append(Change(schema, schema_document().decode(), ("the schema",)))
    missing = sorted(set(blocks) - seen)
    if missing:
        message = f"{docs}: no file has the block {', '.join(missing)}"
        raise MarkerError(message)
    return tuple(found)


def _documents(docs: Path) -> Iterator[tuple[Path, str]]:
    for path in sorted(docs.rglob("*.md")):
        yield path, path.read_text(encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check; 0 fresh, 1 stale (``--check``), 2 the documents are malformed."""
    parser = argparse.ArgumentParser(
        prog="python -m tightseal.cli.reference",
        description="The generated parts of the documentation.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", action="store_true", help="rewrite stale blocks")
    what.add_argument("--check", action="store_true", help="1 where one is stale")
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of documents")
    arguments = parser.parse_args(argv)
    try:
        found = changes(arguments.docs)
        for change in found:
            if arguments.write:
                change.path.write_text(change.text, encoding="utf-8")
    except (MarkerError, OSError, UnicodeError) as e:
        sys.stderr.write(f"error: {e}\n")
        return EXIT_UNREADABLE
    for change in found:
        names = ", ".join(change.stale)
        word = "rewritten" if arguments.write else "stale"
        sys.stderr.write(f"{change.path}: {word}: {names}\n")
    if found and arguments.check:
        sys.stderr.write("the documentation is behind the code: make docs\n")
        return EXIT_STALE
    return EXIT_FRESH


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not through the interpreter's end: msgspec 0.22 sometimes crashes there, when it
    # frees the constraints of the many types that are loaded here, and all is done.
    os._exit(status)
