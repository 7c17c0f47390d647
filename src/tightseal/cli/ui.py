# SPDX-License-Identifier: Apache-2.0
"""How commands speak.

Rules for output:

1. The result goes to stdout; errors, notes and progress go to stderr. A command that
   could not do its work leaves stdout empty.
2. The answer comes first, in one line; what supports it follows, most telling first.
3. One fact a line, ``name  value``, never wrapped: grep, diff and eyes read the same.
4. Colour repeats what the words say and never says more; NO_COLOR is respected.
5. Text from evidence or files is printed as text: no markup, no control characters.
6. An error says its stable code, what was expected and what came, and what to do next.
7. ``--json`` is one document on stdout with every field always there.
8. Exit status: 0 yes, 1 no, 2 the question could not be read or asked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tightseal.errors import Code, TightsealError

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "EXIT_NO",
    "EXIT_UNREADABLE",
    "EXIT_YES",
    "UNREADABLE_CODES",
    "exit_status",
    "facts",
    "heading",
    "note",
    "print_json",
    "printable",
    "show_error",
    "usage_error",
    "verdict",
]

EXIT_YES: Final = 0
EXIT_NO: Final = 1
EXIT_UNREADABLE: Final = 2

UNREADABLE_CODES: Final = frozenset(
    {
        Code.ACTION_MALFORMED,
        Code.EVIDENCE_UNREADABLE,
        Code.EVIDENCE_TOO_LARGE,
        Code.EVIDENCE_KIND_UNSUPPORTED,
        Code.COLLATERAL_UNREADABLE,
        Code.COLLATERAL_UNAVAILABLE,
        Code.COLLATERAL_NOT_FOUND,
        Code.COLLATERAL_TOO_LARGE,
        Code.LOG_MISSING,
        Code.LOG_UNREACHABLE,
        Code.SETTINGS_INVALID,
        Code.STATE_MISSING,
        Code.STATE_UNAVAILABLE,
        Code.POLICY_INVALID,
    }
)
"""Codes after which nothing was judged."""

_NAME_WIDTH: Final = 18
_STYLES: Final = {"yes": "bold green", "no": "bold red", "unsure": "bold yellow"}


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console  # noqa: PLC0415 (start-up time)

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def _line(console: Console, *parts: tuple[str, str]) -> None:
    from rich.text import Text  # noqa: PLC0415 (start-up time)

    clean = [(printable(text), style) for text, style in parts]
    console.print(Text.assemble(*clean), soft_wrap=True)


def printable(text: str) -> str:
    """Text from outside, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def verdict(word: str, rest: str, *, tone: str) -> None:
    """The first line: the answer in one word, then what it is about.

    Args:
        word: such as ``authentic``.
        rest: what the word is about, in a few words.
        tone: ``yes``, ``no`` or ``unsure``.
    """
    _line(_console(), (word, _STYLES[tone]), (f"  {rest}" if rest else "", ""))


def heading(title: str) -> None:
    """A title over a group of facts."""
    console = _console()
    console.print()
    _line(console, (title, "bold"))


def facts(rows: Iterable[tuple[str, str]]) -> None:
    """Facts, one a line: name and value."""
    console = _console()
    for name, value in rows:
        _line(console, (f"  {name:<{_NAME_WIDTH}} ", "dim"), (value, ""))


def note(text: str) -> None:
    """A remark beside the result, on stderr."""
    _line(_console(stderr=True), ("note: ", "bold"), (text, ""))


def show_error(error: TightsealError) -> None:
    """An error on stderr: code, detail, remedy."""
    console = _console(stderr=True)
    _line(console, ("error: ", "bold red"), (error.code.value, "bold"))
    if error.detail:
        _line(console, ("  ", ""), (error.detail, ""))
    if error.request_id:
        _line(console, ("  request: ", "dim"), (error.request_id, ""))
    if error.info.remedy:
        _line(console, ("  try: ", "dim"), (error.info.remedy, ""))


def usage_error(message: str, help_arguments: str) -> int:
    """A wrong command line, on stderr; returns the exit status."""
    console = _console(stderr=True)
    _line(console, ("error: ", "bold red"), (" ".join(message.split()), ""))
    _line(console, ("  try: ", "dim"), (f"tightseal {help_arguments}", ""))
    return EXIT_UNREADABLE


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=True) + "\n")


def exit_status(error: TightsealError) -> int:
    """The exit status after an error."""
    return EXIT_UNREADABLE if error.code in UNREADABLE_CODES else EXIT_NO
