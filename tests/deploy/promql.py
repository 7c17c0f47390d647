# SPDX-License-Identifier: Apache-2.0
"""A small parser of PromQL: enough for our files, and strict about everything else.

Source: Prometheus documentation, "Querying basics", "Operators", "Functions".
"""

import re
from dataclasses import dataclass, field

from tightseal.service.metricinfo import LABELS, METRICS, Kind

AGGREGATORS = frozenset({"sum", "min", "max", "avg", "count"})
OF_RANGES = frozenset({"rate", "increase", "predict_linear"})
FUNCTIONS = frozenset({"histogram_quantile", "scalar", "time", "abs"}) | OF_RANGES
OF_COUNTERS = frozenset({"rate", "increase"})
OPERATORS = frozenset(
    {"+", "-", "*", "/", "%", "==", "!=", ">", "<", ">=", "<=", "and", "or", "unless"}
)
ADDED = frozenset({"instance", "job"})
"""Labels that Prometheus adds."""

_TOKEN = re.compile(
    r'(?P<string>"[^"\\]*")|(?P<duration>\d+(?:s|m|h|d|w)\b)|(?P<number>\d+(?:\.\d+)?)'
    r"|(?P<name>[A-Za-z_:$][A-Za-z0-9_:]*)"
    r"|(?P<sign>==|!=|>=|<=|=~|!~|[-+*/%<>=(){}\[\],:])|(?P<space>\s+)"
)


class PromqlError(Exception):
    """What is wrong with an expression."""


@dataclass
class Selector:
    metric: str
    matchers: list[tuple[str, str, str]] = field(default_factory=list)
    ranged: bool = False
    within: str = ""


@dataclass
class Parsed:
    selectors: list[Selector] = field(default_factory=list)
    grouped: set[str] = field(default_factory=set)


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise PromqlError(f"at {at}: {text[at : at + 12]!r}")
            at = found.end()
            if found.lastgroup != "space":
                self.tokens.append((found.lastgroup or "", found.group()))
        self.at = 0
        self.parsed = Parsed()

    def peek(self) -> str:
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    def kind(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else "end"

    def take(self, *wanted: str) -> str:
        got = self.peek()
        if not got or (wanted and got not in wanted):
            raise PromqlError(f"expected {wanted or 'more'}, got {got!r}")
        self.at += 1
        return got

    def take_kind(self, *wanted: str) -> str:
        if self.kind() not in wanted:
            raise PromqlError(f"expected {wanted}, got {self.peek()!r}")
        return self.take()

    def expression(self, within: str = "") -> None:
        self.operand(within)
        while self.peek() in OPERATORS:
            self.take()
            if self.peek() in {"on", "ignoring"}:
                self.take()
                self.labels()
            self.operand(within)

    def operand(self, within: str) -> None:
        if self.peek() == "-":
            self.take()
        if self.kind() in {"number", "duration"}:
            self.take_kind("number")
        elif self.peek() == "(":
            self.take()
            self.expression(within)
            self.take(")")
        elif self.peek() in AGGREGATORS:
            self.aggregation(within)
        elif self.at + 1 < len(self.tokens) and self.tokens[self.at + 1][1] == "(":
            self.call()
        else:
            self.selector(within)

    def aggregation(self, within: str) -> None:
        self.take()
        if self.peek() in {"by", "without"}:
            self.take()
            self.parsed.grouped |= self.labels()
        self.take("(")
        self.expression(within)
        self.take(")")

    def call(self) -> None:
        name = self.take_kind("name")
        if name not in FUNCTIONS:
            raise PromqlError(f"no function {name}")
        self.take("(")
        while self.peek() != ")":
            self.expression(name)
            if self.peek() == ",":
                self.take()
        self.take(")")

    def selector(self, within: str) -> None:
        found = Selector(self.take_kind("name"), within=within)
        if self.peek() == "{":
            self.take()
            while self.peek() != "}":
                label = self.take_kind("name")
                operator = self.take("=", "!=", "=~", "!~")
                found.matchers.append(
                    (label, operator, self.take_kind("string").strip('"'))
                )
                if self.peek() == ",":
                    self.take()
            self.take("}")
        if self.peek() == "[":
            self.take()
            if self.kind() == "name":
                self.take("$__rate_interval")
            else:
                self.take_kind("duration")
            self.take("]")
            found.ranged = True
        if self.peek() == "offset":
            self.take()
            self.take_kind("duration")
        self.parsed.selectors.append(found)

    def labels(self) -> set[str]:
        self.take("(")
        found = set()
        while self.peek() != ")":
            found.add(self.take_kind("name"))
            if self.peek() == ",":
                self.take()
        self.take(")")
        return found


def parse(text: str) -> Parsed:
    """The selectors and groupings of an expression.

    Raises:
        PromqlError: it is not of the form.
    """
    parser = _Parser(text)
    parser.expression()
    if parser.peek():
        raise PromqlError(f"left over: {parser.peek()!r}")
    return parser.parsed


def _series() -> dict[str, tuple[Kind, frozenset[str]]]:
    found: dict[str, tuple[Kind, frozenset[str]]] = {}
    for m in METRICS:
        labels = frozenset(m.labels)
        if m.kind is Kind.HISTOGRAM:
            found[f"{m.name}_bucket"] = (Kind.COUNTER, labels | {"le"})
            found[f"{m.name}_sum"] = (Kind.COUNTER, labels)
            found[f"{m.name}_count"] = (Kind.COUNTER, labels)
        else:
            found[m.name] = (m.kind, labels)
    return found


SERIES = _series()


def check(text: str) -> Parsed:
    """Hold an expression against the metrics that the program registers.

    Raises:
        PromqlError: an unknown metric, label or label value; a counter that is not
            looked at as a rate, or a gauge that is; a grouping that no metric has.
    """
    parsed = parse(text)
    have = set(ADDED)
    for selector in parsed.selectors:
        if selector.metric == "up":
            continue
        if selector.metric not in SERIES:
            raise PromqlError(f"no metric {selector.metric}")
        kind, labels = SERIES[selector.metric]
        have |= labels
        _check_shape(selector, kind)
        for label, operator, value in selector.matchers:
            _check_matcher(selector.metric, label, operator, value, labels)
    if odd := parsed.grouped - have:
        raise PromqlError(f"grouped by {sorted(odd)}, which no metric of it has")
    return parsed


def _check_shape(selector: Selector, kind: Kind) -> None:
    if selector.ranged != (selector.within in OF_RANGES):
        raise PromqlError(f"{selector.metric}: a range where none belongs, or none")
    if (kind is Kind.COUNTER) != (selector.within in OF_COUNTERS):
        raise PromqlError(f"{selector.metric} is a {kind} within {selector.within!r}")


def _check_matcher(
    metric: str, label: str, operator: str, value: str, labels: frozenset[str]
) -> None:
    if label in ADDED:
        return
    if label not in labels:
        raise PromqlError(f"{metric} has no label {label}")
    values = value.split("|") if operator in {"=~", "!~"} else [value]
    if odd := set(values) - LABELS[label].values:
        raise PromqlError(f"{label} is never {sorted(odd)}")
