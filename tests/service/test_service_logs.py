# SPDX-License-Identifier: Apache-2.0
"""Log lines: form, level, the word ``simulated``, and the guard against secrets."""

import errno
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tightseal.errors import (
    Code,
    EvidenceError,
    PolicyError,
    RequestError,
    ServiceError,
)
from tightseal.model.claims import Check, Outcome
from tightseal.model.grant import Reason
from tightseal.model.secret import Secret
from tightseal.service.front import Request
from tightseal.service.health import STALE_SECONDS, Health
from tightseal.service.logs import configure_logs, error_fields, scrub, set_level
from tightseal.service.metrics import Metrics
from tightseal.service.settings import LogFormat, LogLevel, LogSettings

KEY = bytes(range(32))
SECRET_TEXTS = (KEY.hex(), repr(KEY), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    out = io.StringIO()
    configure_logs(LogSettings(), simulated=False, stream=out)
    yield out
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []


def lines(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def assert_no_secret(text: str) -> None:
    for secret in SECRET_TEXTS:
        assert secret not in text


def test_every_line_of_a_simulated_provider_says_so() -> None:
    out = io.StringIO()
    # As another command of this process may have left it.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    configure_logs(LogSettings(), simulated=True, worker=3, stream=out)
    structlog.get_logger("x").info("one")
    logging.getLogger("library").error("two")
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []
    assert [line["simulated"] for line in lines(out)] == [True, True]
    assert [line["worker"] for line in lines(out)] == [3, 3]


def test_secrets_never_reach_a_line(stream: io.StringIO) -> None:
    log = structlog.get_logger("x")
    log.info(
        "said",
        key=KEY.hex(),
        sealing_key="text",
        seed=SECRET_TEXTS[2],
        value=KEY,
        holder=Secret(KEY),
        nested={"root": KEY.hex(), "more": [KEY, {"password": "x"}]},
        strange=ValueError(f"bad {KEY!r}"),
    )
    assert_no_secret(stream.getvalue())
    line = lines(stream)[0]
    assert line["key"] == line["sealing_key"] == line["seed"] == "<redacted>"
    assert line["value"] == "<32 bytes>"
    assert line["holder"] == "<secret of 32 bytes>"


@pytest.mark.parametrize("text", SECRET_TEXTS)
def test_messages_of_foreign_exceptions_lose_their_blobs(text: str) -> None:
    try:
        raise KeyError(f"no {text} here")
    except KeyError as e:
        fields = error_fields(e)
    assert_no_secret(json.dumps(fields))
    assert fields["error"] == "KeyError"
    assert "test_service_logs" in fields["frames"][0]
    assert scrub(f"no {text} here") == "no <cut> here"


def test_library_records_come_through_scrubbed(stream: io.StringIO) -> None:
    logging.getLogger("lib").warning("got %s", KEY.hex())
    logging.getLogger("lib").info("chatter")
    (line,) = lines(stream)
    assert line["logger"] == "lib"
    assert_no_secret(stream.getvalue())


def test_level_can_change_while_running(stream: io.StringIO) -> None:
    log = structlog.get_logger("x")
    log.debug("unseen")
    set_level(LogLevel.DEBUG)
    log.debug("seen")
    set_level(LogLevel.ERROR)
    log.warning("unseen")
    log.error("seen too")
    assert [line["event"] for line in lines(stream)] == ["seen", "seen too"]


def test_text_format_is_for_people() -> None:
    out = io.StringIO()
    settings = LogSettings(format=LogFormat.TEXT)
    configure_logs(settings, simulated=True, stream=out)
    structlog.get_logger("x").info("happened", code="x")
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []
    assert "happened" in out.getvalue()
    assert "simulated=True" in out.getvalue()


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (RequestError(Code.REQUEST_MALFORMED, "x"), "info"),
        (EvidenceError(Code.QUOTE_MALFORMED, "x"), "warning"),
        (ServiceError(Code.OVERLOADED, "x"), "warning"),
        (ServiceError(Code.JOURNAL_FAILED, "x"), "error"),
        (RuntimeError("x"), "error"),
    ],
)
def test_refusals_have_the_level_of_who_must_act(
    stream: io.StringIO, error: BaseException, level: str
) -> None:
    Request("keys", "peer", Metrics()).refused(error)
    assert lines(stream)[0]["level"] == level


def test_operator_sees_the_failed_check_and_the_rule_that_said_no(
    stream: io.StringIO,
) -> None:
    denial = PolicyError(Code.DEBUG_ENABLED, "debug")
    denial.reasons = (
        Reason("tcb", "UpToDate", "UpToDate", satisfied=True),
        Reason("debug", "off", "on", satisfied=False),
    )
    refusal = EvidenceError(Code.QUOTE_SIGNATURE_INVALID, "bad")
    refusal.checks = (
        Check("form", Outcome.PASSED, "a"),
        Check("quote_signature", Outcome.FAILED, "b"),
    )
    for error in (denial, refusal):
        Request("keys", "peer", Metrics()).refused(error)
    first, second = lines(stream)
    assert first["reasons"] == ["debug: expected off, got on"]
    assert first["rules_that_hold"] == ["tcb: expected UpToDate, got UpToDate"]
    assert second["failed_checks"] == ["quote_signature (b)"]


class FullDisk(io.StringIO):
    """Takes nothing while it is full."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "no space")
        return super().write(text)


def test_a_log_that_cannot_be_written_harms_nobody_and_is_told_afterwards() -> None:
    out = FullDisk()
    configure_logs(LogSettings(), simulated=False, stream=out)
    log = structlog.get_logger("x")
    for _ in range(3):
        log.info("lost")
    out.full = False
    log.info("written")
    log.info("after")
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = []
    written, after = lines(out)
    assert (written["event"], written["lines_lost"]) == ("written", 3)
    assert "lines_lost" not in after


# -- health ------------------------------------------------------------------------


def test_health_before_the_first_look_is_not_ready() -> None:
    assert not Health({}).last().ready


@pytest.mark.usefixtures("stream")
def test_health_that_nobody_renews_is_not_ready() -> None:
    seconds = [100.0]
    health = Health({"part": lambda: None}, monotonic=lambda: seconds[0])
    assert health.look().ready
    seconds[0] += STALE_SECONDS
    assert health.last().ready
    seconds[0] += 0.1
    assert not health.last().ready


@pytest.mark.usefixtures("stream")
def test_health_survives_a_probe_that_breaks() -> None:
    def broken() -> None:
        raise ZeroDivisionError

    seen: dict[str, bool] = {}
    probes = {"broken": broken, "fine": lambda: None}
    health = Health(probes, on_part=seen.__setitem__)
    readiness = health.look()
    assert not readiness.ready
    assert seen == {"broken": False, "fine": True}
    assert readiness.parts[0].code == "internal"
