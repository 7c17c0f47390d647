# SPDX-License-Identifier: Apache-2.0
"""Selectors: one rule on one measurement, ready to be judged.

An absent value fits none of them. All zero fits only :class:`Zero` in fields where it
means that nothing was set (see ``fields.ZERO_IS_A_VALUE``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tightseal.policy.document import SelectorRules, SelectorValue
from tightseal.policy.fields import (
    MEASUREMENT_BYTES,
    MINIMUM_FIELDS,
    NUMBER_FIELDS,
    ZERO_IS_A_VALUE,
)
from tightseal.policy.locate import Path
from tightseal.policy.read import FieldFault

__all__ = [
    "Exact",
    "Mask",
    "Minimum",
    "OneOf",
    "Selector",
    "Zero",
    "compile_event",
    "compile_selector",
    "exact_values",
    "overlap",
]


@dataclass(frozen=True, slots=True)
class Exact:
    """The value itself."""

    value: bytes

    def holds(self, got: bytes | None) -> bool:
        """Whether a measurement fits."""
        return got == self.value

    def expected(self) -> str:
        """The rule for people."""
        return self.value.hex()


@dataclass(frozen=True, slots=True)
class OneOf:
    """Any of several values."""

    values: frozenset[bytes]

    def holds(self, got: bytes | None) -> bool:
        """Whether a measurement fits."""
        return got in self.values

    def expected(self) -> str:
        """The rule for people."""
        return "one of " + ", ".join(sorted(value.hex() for value in self.values))


@dataclass(frozen=True, slots=True)
class Mask:
    """Some bits; ``unset_is_none`` where all zero means that nothing was set."""

    mask: int
    value: int
    length: int
    unset_is_none: bool

    def holds(self, got: bytes | None) -> bool:
        """Whether a measurement fits."""
        if got is None or len(got) != self.length:
            return False
        number = int.from_bytes(got, "big")
        if number == 0 and self.unset_is_none:
            return False
        return number & self.mask == self.value

    def expected(self) -> str:
        """The rule for people."""
        value, mask = (n.to_bytes(self.length, "big") for n in (self.value, self.mask))
        return f"{value.hex()} under mask {mask.hex()}"


@dataclass(frozen=True, slots=True)
class Minimum:
    """A little-endian number of at least ``least``."""

    least: int

    def holds(self, got: bytes | None) -> bool:
        """Whether a measurement fits."""
        return got is not None and int.from_bytes(got, "little") >= self.least

    def expected(self) -> str:
        """The rule for people."""
        return f"at least {self.least}"


@dataclass(frozen=True, slots=True)
class Zero:
    """All zero, said aloud."""

    length: int

    def holds(self, got: bytes | None) -> bool:
        """Whether a measurement fits."""
        return got is not None and len(got) == self.length and not any(got)

    def expected(self) -> str:
        """The rule for people."""
        return "all zero"


Selector: TypeAlias = Exact | OneOf | Mask | Minimum | Zero


def compile_selector(name: str, rule: SelectorValue, path: Path) -> Selector:
    """Make a selector of a document's value for the measurement ``name``.

    Raises:
        FieldFault: a wrong length, a form that the field does not have, a rule that
            nothing or everything would fit.
    """
    if not isinstance(rule, SelectorRules):
        return Exact(_value(name, rule, path))
    forms = [
        form
        for form in ("one_of", "mask", "minimum", "zero")
        if getattr(rule, form) is not None
    ]
    if len(forms) != 1 or (rule.expected is None) != (rule.mask is None):
        message = "expected one of: one_of; mask with expected; minimum; zero"
        raise FieldFault(path, message)
    if rule.one_of is not None:
        return _one_of(name, rule.one_of, path)
    if rule.mask is not None and rule.expected is not None:
        return _mask(name, rule.mask, rule.expected, path)
    if rule.minimum is None:
        return Zero(MEASUREMENT_BYTES[name])
    if name not in MINIMUM_FIELDS:
        known = ", ".join(sorted(MINIMUM_FIELDS))
        raise FieldFault((*path, "minimum"), f"{name} has none; only {known}")
    if rule.minimum >= 1 << (8 * MEASUREMENT_BYTES[name]):
        raise FieldFault((*path, "minimum"), f"more than {name} can hold")
    return Minimum(rule.minimum)


def compile_event(rule: SelectorValue, path: Path) -> Exact | OneOf:
    """Make a selector of an identity event's payload.

    Raises:
        FieldFault: another form than hex or ``one_of``, or an empty or all-zero
            payload, which counts as absent.
    """
    if isinstance(rule, SelectorRules):
        other = (rule.mask, rule.expected, rule.minimum, rule.zero)
        if rule.one_of is None or any(form is not None for form in other):
            raise FieldFault(path, "expected hex, or one_of")
        within = (*path, "one_of")
        return _list(
            [_payload(v, (*within, i)) for i, v in enumerate(rule.one_of)], within
        )
    return Exact(_payload(rule, path))


def exact_values(selector: Selector) -> frozenset[bytes]:
    """The values that fit, where they are a list; else empty."""
    if isinstance(selector, Exact):
        return frozenset({selector.value})
    if isinstance(selector, OneOf):
        return selector.values
    if isinstance(selector, Zero):
        return frozenset({bytes(selector.length)})
    return frozenset()


def overlap(one: Selector, other: Selector) -> bool:
    """Whether some value fits both."""
    mine, theirs = exact_values(one), exact_values(other)
    if mine:
        return any(other.holds(value) for value in mine)
    if theirs:
        return any(one.holds(value) for value in theirs)
    if isinstance(one, Mask) and isinstance(other, Mask):
        return not (one.value ^ other.value) & one.mask & other.mask
    return True


def _one_of(name: str, rules: tuple[str | int, ...], path: Path) -> OneOf:
    within = (*path, "one_of")
    return _list(
        [_value(name, rule, (*within, i)) for i, rule in enumerate(rules)], within
    )


def _list(values: list[bytes], within: Path) -> OneOf:
    if not values:
        raise FieldFault(within, "an empty list, which nothing fits")
    if len(set(values)) != len(values):
        raise FieldFault(within, "names a value twice")
    return OneOf(frozenset(values))


def _mask(name: str, mask: str, expected: str, path: Path) -> Mask:
    length = MEASUREMENT_BYTES[name]
    bits = int.from_bytes(_bytes(name, mask, (*path, "mask")), "big")
    value = int.from_bytes(_bytes(name, expected, (*path, "expected")), "big")
    if bits == 0:
        raise FieldFault((*path, "mask"), "all zero, which everything fits")
    if value & ~bits:
        message = "has bits that the mask leaves out, so nothing fits"
        raise FieldFault((*path, "expected"), message)
    return Mask(bits, value, length, name not in ZERO_IS_A_VALUE)


def _value(name: str, rule: str | int, path: Path) -> bytes:
    length = MEASUREMENT_BYTES[name]
    if isinstance(rule, int):
        if name not in NUMBER_FIELDS:
            raise FieldFault(path, f"{name} is no number: expected {length} bytes hex")
        if rule >= 1 << (8 * length):
            raise FieldFault(path, f"{rule} is more than {name} can hold")
        return rule.to_bytes(length, "little")
    value = _bytes(name, rule, path)
    if not any(value) and name not in ZERO_IS_A_VALUE:
        message = "all zero, which means unset and fits nothing; { zero = true }"
        raise FieldFault(path, f"{message} requires it")
    return value


def _payload(rule: str | int, path: Path) -> bytes:
    if isinstance(rule, int):
        raise FieldFault(path, "expected the hex of what was measured")
    value = bytes.fromhex(rule)
    if not any(value):
        raise FieldFault(path, "all zero, which counts as absent and fits nothing")
    return value


def _bytes(name: str, text: str, path: Path) -> bytes:
    length, value = MEASUREMENT_BYTES[name], bytes.fromhex(text)
    if len(value) != length:
        message = f"expected {length} bytes of hex for {name}, got {len(value)}"
        raise FieldFault(path, message)
    return value
