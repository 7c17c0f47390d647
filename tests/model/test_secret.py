# SPDX-License-Identifier: Apache-2.0
import copy
import hmac
import json
import logging
import pickle
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from tightseal.model import canonical
from tightseal.model.secret import Secret

SHOWN = b"ABCDabcd01234567"
SECRET = Secret(SHOWN)


def test_holds_its_bytes() -> None:
    assert SECRET.reveal() == SHOWN
    assert len(SECRET) == 16


@dataclass(frozen=True)
class Holder:
    key: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "%s %r".__mod__,
        lambda s: f"{s!a}",
        lambda s: repr([s, {"key": s}, Holder(s)]),
        lambda s: logging.LogRecord("n", 10, "p", 1, "%s", (s,), None).getMessage(),
    ],
)
def test_does_not_show_itself(show: Callable[[Any], str]) -> None:
    try:
        shown = show(SECRET)
    except TypeError:
        shown = show((SECRET, SECRET))
    assert "secret of 16 bytes" in shown
    for form in (SHOWN.decode(), SHOWN.hex(), "ABCD", "4142"):
        assert form not in shown


def test_does_not_show_in_a_traceback() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as e:
        text = "".join(
            traceback.TracebackException.from_exception(e, capture_locals=True).format()
        )
    assert "secret of 16 bytes" in text
    assert SHOWN.decode() not in text


@pytest.mark.parametrize(
    "leave",
    [
        *(
            lambda s, p=p: pickle.dumps(s, p)
            for p in range(pickle.HIGHEST_PROTOCOL + 1)
        ),
        copy.copy,
        copy.deepcopy,
        lambda s: asdict(Holder(s)),
        json.dumps,
        hash,
        vars,
        iter,
        bytes,
        memoryview,
        lambda s: {s},
    ],
)
def test_does_not_leave(leave: Callable[[Any], object]) -> None:
    with pytest.raises(TypeError):
        leave(SECRET)


def test_does_not_enter_a_canonical_value() -> None:
    with pytest.raises(Exception, match="Secret"):
        canonical.encode({"key": SECRET})  # type: ignore[dict-item]


def test_takes_no_attributes() -> None:
    with pytest.raises(AttributeError):
        SECRET.note = "x"  # type: ignore[attr-defined]


def test_equality_is_constant_time_and_among_secrets_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def counted(a: bytes, b: bytes) -> bool:
        calls.append((bytes(a), bytes(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counted)
    assert Secret(SHOWN) == SECRET
    assert Secret(SHOWN[:-1] + b"8") != SECRET
    assert Secret(SHOWN[:-1]) != SECRET
    assert len(calls) == 3
    assert (SECRET == SHOWN) is False
    assert (bytearray(SHOWN) == SECRET) is False
    assert len(calls) == 3


def test_wipe_overwrites_its_own_copy() -> None:
    given = bytearray(SHOWN)
    secret = Secret(given)
    held = secret._data
    secret.wipe()
    assert bytes(held) == bytes(16)
    assert len(secret) == 16
    assert bytes(given) == SHOWN, "the caller's copy is the caller's to wipe"
