# SPDX-License-Identifier: Apache-2.0
"""HTTP API v1: problem documents, bounds in bytes and time, and the worker threads."""

import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from service_harness import (
    ScriptedProvider,
    ask_http,
    connect,
    http_request,
    parse_http,
    receive_all,
    running,
    scripted_error,
    scripted_settings,
    until,
)

from tightseal.errors import CODES, Code, RequestError, ServiceError
from tightseal.model import wire
from tightseal.service.connections import Phase
from tightseal.service.listen_settings import HttpSettings
from tightseal.service.openapi import openapi_document


def quick(**limits: Any) -> HttpSettings:
    usual: dict[str, Any] = {
        "head_seconds": 0.5,
        "body_seconds": 0.6,
        "write_seconds": 0.6,
        "idle_seconds": 0.6,
    }
    return HttpSettings(**(usual | limits))


def code_of(data: bytes) -> str:
    return str(parse_http(data).json["code"])


def test_keys_reach_the_pipeline_byte_for_byte() -> None:
    body = b'{"any": "thing"}\n'
    with running() as run:
        first = ask_http(run.http_port, "POST", wire.KEYS_PATH, body)
        again = ask_http(run.http_port, "POST", wire.KEYS_PATH, body)
    assert run.provider.seen == [body, body]
    assert first.status == 200
    assert first.body == again.body
    assert first.headers["content-type"] == "application/json"
    assert first.headers["cache-control"] == "no-store"
    assert first.headers["x-request-id"] != again.headers["x-request-id"]


@pytest.mark.parametrize("code", list(Code))
def test_every_code_becomes_a_problem_document(code: Code) -> None:
    provider = ScriptedProvider(error=scripted_error(code))
    with running(provider) as run:
        answer = ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
    info = CODES[code]
    request_id = answer.headers["x-request-id"]
    assert answer.status == info.status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json == {
        "type": f"urn:tightseal:error:{code.value}",
        "title": info.public,
        "status": info.status,
        "code": code.value,
        "instance": f"urn:tightseal:request:{request_id}",
    }
    assert ("retry-after" in answer.headers) == (info.status in (429, 503))


@pytest.mark.parametrize(
    "error", [RuntimeError("key 00ff"), KeyError("x"), AssertionError(), OSError(5)]
)
def test_unknown_exception_is_internal_and_says_nothing(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(ScriptedProvider(error=error)) as run:
        answer = ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert b"00ff" not in answer.body
    assert type(error).__name__ in capsys.readouterr().out


def test_challenge_is_decoded_strictly() -> None:
    bodies = {
        b"": "request_malformed",
        b"{}": "request_malformed",
        b"[]": "request_malformed",
        b'{"version":1,"client_nonce":"AA"}': "request_malformed",
        b'{"version":2,"client_nonce":"' + b"A" * 43 + b'"}': "request_malformed",
        b'{"version":1,"client_nonce":"' + b"A" * 43 + b'","x":1}': "request_malformed",
        b'{"version":1,"client_nonce":"' + b"A" * 43 + b'"}': "quote_malformed",
        b" " * (wire.MAX_CHALLENGE_REQUEST_BYTES + 1): "request_too_large",
    }
    with running() as run:
        for body, code in bodies.items():
            answer = ask_http(run.http_port, "POST", wire.CHALLENGE_PATH, body)
            assert answer.json["code"] == code, body


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "not_found"),
        ("GET", "/v1/keys/x", 404, "not_found"),
        ("GET", "/v1/keys", 405, "method_not_allowed"),
        ("DELETE", "/v1/info", 405, "method_not_allowed"),
        ("POST", "/v1/../v1/keys", 404, "not_found"),
    ],
)
def test_wrong_address_or_method(
    method: str, path: str, status: int, code: str
) -> None:
    with running() as run:
        answer = ask_http(run.http_port, method, path)
    assert (answer.status, answer.json["code"]) == (status, code)


def test_info_health_metrics_and_openapi() -> None:
    with running() as run:
        info = ask_http(run.http_port, "GET", "/v1/info")
        alive = ask_http(run.http_port, "GET", "/healthz")
        metrics = ask_http(run.http_port, "GET", "/metrics")
        openapi = ask_http(run.http_port, "GET", "/v1/openapi.json")
    msgspec.json.decode(info.body, type=wire.InfoResponse)
    assert alive.json == {"alive": True}
    assert b'tightseal_requests_total{code="granted"' not in metrics.body
    assert openapi.body == openapi_document()


def test_metrics_can_be_switched_off() -> None:
    settings = scripted_settings(http=HttpSettings(metrics=False))
    with running(settings=settings) as run:
        assert ask_http(run.http_port, "GET", "/metrics").status == 404


def test_readiness_names_what_is_wrong_and_how_to_mend_it() -> None:
    def broken() -> None:
        raise ServiceError(Code.JOURNAL_FAILED, "disk /secret/path is full")

    def fine() -> None:
        return None

    probes: dict[str, Callable[[], object]] = {"journal": broken, "key": fine}
    with running(probes=probes) as run:
        answer = ask_http(run.http_port, "GET", "/readyz")
    assert answer.status == 503
    assert answer.json["ready"] is False
    journal, key = answer.json["parts"]
    assert (journal["ok"], journal["code"]) == (False, "journal_failed")
    assert journal["remedy"]
    assert (key["ok"], key["code"]) == (True, None)
    assert b"/secret/path" not in answer.body


# -- bounds ------------------------------------------------------------------------


def test_claimed_length_beyond_the_limit_is_refused_before_the_body() -> None:
    head = http_request(
        "POST", wire.KEYS_PATH, headers="content-length: 99999999999\r\n"
    )
    with running() as run, connect(run.http_port) as connection:
        connection.sendall(head)
        assert code_of(receive_all(connection)) == "request_too_large"
    assert run.provider.seen == []


def test_chunked_body_beyond_the_limit_is_refused() -> None:
    head = http_request(
        "POST", wire.KEYS_PATH, headers="transfer-encoding: chunked\r\n"
    )
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with running() as run, connect(run.http_port) as connection:
        connection.sendall(head)
        sent = 0
        try:
            for _ in range(1000):
                connection.sendall(chunk)
                sent += len(chunk)
        except ConnectionError:
            pass
        assert sent < 32 << 20
        data = receive_all(connection)
        assert data == b"" or code_of(data) == "request_too_large"
    assert run.provider.seen == []
    assert run.front.budget.held == 0


MALFORMED = {
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "header without colon": b"GET / HTTP/1.1\r\nhost t\r\n\r\n",
    "two lengths": (
        b"POST /v1/keys HTTP/1.1\r\nhost: t\r\n"
        b"content-length: 1\r\ncontent-length: 2\r\n\r\nxx"
    ),
    "length and chunks": (
        b"POST /v1/keys HTTP/1.1\r\nhost: t\r\ncontent-length: 1\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "negative length": (
        b"POST /v1/keys HTTP/1.1\r\nhost: t\r\ncontent-length: -1\r\n\r\n"
    ),
    "bad chunk": (
        b"POST /v1/keys HTTP/1.1\r\nhost: t\r\n"
        b"transfer-encoding: chunked\r\n\r\nzz\r\n\r\n"
    ),
    "control characters in the address": b"GET /\x01\x02 HTTP/1.1\r\nhost: t\r\n\r\n",
    "CONNECT": b"CONNECT t:1 HTTP/1.1\r\nhost: t\r\n\r\n",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_http_gets_a_clear_error_or_a_closed_connection(data: bytes) -> None:
    with running(settings=scripted_settings(http=quick())) as run:
        with connect(run.http_port) as connection:
            connection.sendall(data)
            answer = receive_all(connection)
            assert answer == b"" or parse_http(answer).status in (400, 404, 405, 408)
        assert run.provider.seen == []
        assert ask_http(run.http_port, "GET", "/healthz").status == 200


def test_long_head_is_refused() -> None:
    with running() as run, connect(run.http_port) as connection:
        head = b"GET / HTTP/1.1\r\n"
        head += b"".join(b"x-%d: %b\r\n" % (n, b"v" * 90) for n in range(300))
        connection.sendall(head + b"\r\n")
        assert code_of(receive_all(connection)) == "request_too_large"


def test_endless_head_is_refused() -> None:
    with running() as run, connect(run.http_port) as connection:
        with suppress(ConnectionError):
            connection.sendall(b"GET /" + b"a" * (1 << 20))
        data = receive_all(connection)
        assert data == b"" or code_of(data) == "request_too_large"


def test_long_pipeline_is_refused() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as run, connect(run.http_port) as connection:
        one = http_request("POST", wire.KEYS_PATH, b"{}", close=False)
        connection.sendall(one * 50)
        assert b" 400 " in receive_all(connection)
        provider.open_gate()


def test_short_pipeline_is_answered_in_order() -> None:
    with running() as run, connect(run.http_port) as connection:
        requests = [
            http_request("POST", wire.KEYS_PATH, b"1", close=False),
            http_request("GET", "/healthz", close=False),
            http_request("POST", wire.KEYS_PATH, b"22"),
        ]
        connection.sendall(b"".join(requests))
        data = receive_all(connection)
    assert data.count(b"HTTP/1.1 200") == 3
    assert data.index(b"echo") < data.index(b"alive") < data.rindex(b"echo")


def test_silent_connection_is_closed_within_the_head_limit() -> None:
    with (
        running(settings=scripted_settings(http=quick())) as run,
        connect(run.http_port) as connection,
    ):
        start = time.monotonic()
        assert receive_all(connection) == b""
        assert 0.4 < time.monotonic() - start < 2


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/keys HTTP/1.1\r\nhost: t\r\n" + b"x-slow: y\r\n" * 40,
        http_request("POST", "/v1/keys", headers="content-length: 999\r\n"),
    ],
    ids=["slow head", "slow body"],
)
def test_slow_request_is_cut_off_although_bytes_keep_coming(data: bytes) -> None:
    with running(settings=scripted_settings(http=quick())) as run:
        with connect(run.http_port) as connection:
            whole = data + b"x" * 400
            at = data.index(b"\r\n\r\n") + 4 if b"\r\n\r\n" in data else 40
            connection.sendall(whole[:at])
            stopped = threading.Event()

            def drip() -> None:
                for byte in whole[at:]:
                    if stopped.wait(0.1):
                        return
                    try:
                        connection.sendall(bytes([byte]))
                    except OSError:
                        return

            thread = threading.Thread(target=drip)
            thread.start()
            start = time.monotonic()
            answer = receive_all(connection)
            spent = time.monotonic() - start
            stopped.set()
            thread.join()
        assert spent < 2.5
        assert code_of(answer) == "request_timeout"
        assert run.provider.seen == []
        until(lambda: run.front.budget.held == 0)


def test_idle_connection_is_closed_after_its_last_answer() -> None:
    with (
        running(settings=scripted_settings(http=quick())) as run,
        connect(run.http_port) as connection,
    ):
        connection.sendall(http_request("GET", "/healthz", close=False))
        start = time.monotonic()
        assert b"alive" in receive_all(connection)
        assert 0.4 < time.monotonic() - start < 2.5


def test_answer_that_takes_too_long_is_given_up() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    settings = scripted_settings(http=quick(request_seconds=0.5))
    with running(provider, settings) as run:
        answer = ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
        provider.open_gate()
        until(lambda: run.front.pool.in_flight == 0)
        assert run.front.budget.held == 0


def test_full_queue_is_overloaded_and_the_loop_still_answers() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider, scripted_settings(queue=1)) as run:
        held = [connect(run.http_port) for _ in range(3)]
        for connection in held:
            connection.sendall(http_request("POST", wire.KEYS_PATH, b"{}"))
        until(lambda: run.front.pool.in_flight == 3)
        answer = ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
        assert (answer.status, answer.json["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"] == "1"
        assert ask_http(run.http_port, "GET", "/healthz").status == 200
        provider.open_gate()
        for connection in held:
            assert parse_http(receive_all(connection)).status == 200
            connection.close()


def test_requests_that_wait_for_quotes_do_not_hold_up_the_others() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as run:
        slow = [connect(run.http_port) for _ in range(4)]
        for connection in slow:
            body = b'{"proof":"quote"}'
            connection.sendall(http_request("POST", wire.KEYS_PATH, body))
        until(lambda: run.front.quote_pool.in_flight == 4)
        assert ask_http(run.http_port, "GET", "/v1/info").status == 200
        provider.open_gate()
        for connection in slow:
            assert parse_http(receive_all(connection)).status == 200
            connection.close()


def test_oldest_idle_connection_goes_first() -> None:
    settings = scripted_settings(http=HttpSettings(max_connections=2, max_per_peer=2))
    with (
        running(settings=settings) as run,
        connect(run.http_port) as old,
        connect(run.http_port) as young,
    ):
        until(lambda: len(run.worker._tables["http"]) == 2)
        assert ask_http(run.http_port, "GET", "/healthz").status == 200
        assert receive_all(old) == b""
        young.sendall(http_request("GET", "/healthz"))
        assert b"alive" in receive_all(young)


def test_client_that_leaves_mid_body_costs_nothing() -> None:
    with running() as run:
        with connect(run.http_port) as connection:
            head = http_request(
                "POST", wire.KEYS_PATH, headers="content-length: 9000\r\n"
            )
            connection.sendall(head + b"x" * 4000)
            until(lambda: run.front.budget.held == 4000)
        until(lambda: run.front.budget.held == 0)
        assert run.provider.seen == []


@pytest.mark.parametrize("leave", ["closed", "refused"])
def test_answer_to_an_earlier_request_of_a_broken_pipeline_is_dropped(
    leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as run:
        with connect(run.http_port) as connection:
            first = http_request("POST", wire.KEYS_PATH, b"1", close=False)
            connection.sendall(first + http_request("GET", "/healthz", close=False))
            until(lambda: bool(provider.seen))
            if leave == "refused":
                connection.sendall(b"\0\r\n\r\n")
                assert code_of(receive_all(connection)) == "request_malformed"
        until(lambda: not run.worker._tables["http"].count(Phase.SERVING))
        provider.open_gate()
        until(lambda: run.front.budget.held == 0)
        assert ask_http(run.http_port, "GET", "/healthz").status == 200
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_client_that_never_reads_is_aborted() -> None:
    with (
        running(settings=scripted_settings(http=quick())) as run,
        connect(run.http_port) as connection,
    ):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        one = http_request("GET", "/v1/openapi.json", close=False)
        try:
            for _ in range(2000):
                connection.sendall(one)
                time.sleep(0.001)
        except OSError:
            pass
        until(lambda: len(run.worker._tables["http"]) == 0, seconds=6)


def test_a_stop_lets_requests_in_flight_finish() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as run:
        with connect(run.http_port) as busy, connect(run.http_port) as idle:
            busy.sendall(http_request("POST", wire.KEYS_PATH, b"{}", close=False))
            until(lambda: bool(provider.seen))
            run.loop.call_soon_threadsafe(run.worker.stop)
            assert receive_all(idle) == b""
            provider.open_gate()
            assert parse_http(receive_all(busy)).status == 200
        run.thread.join(5)
        assert not run.thread.is_alive()


def test_openapi_describes_every_type_and_code() -> None:
    document = json.loads(openapi_document())
    schemas = document["components"]["schemas"]
    assert {"ChallengeRequest", "KeysRequest", "KeysResponse", "Problem"} <= set(
        schemas
    )
    assert schemas["Problem"]["properties"]["code"]["enum"] == sorted(Code)
    text = openapi_document().decode()
    for part in text.split('"$ref": "#/components/schemas/')[1:]:
        assert part.split('"')[0] in schemas


def test_detail_stays_with_the_operator(capsys: pytest.CaptureFixture[str]) -> None:
    error = RequestError(Code.REQUEST_MALFORMED, "expected seven, got eight")
    with running(ScriptedProvider(error=error)) as run:
        answer = ask_http(run.http_port, "POST", wire.KEYS_PATH, b"{}")
    assert b"seven" not in answer.body
    logged = capsys.readouterr().out
    assert "expected seven, got eight" in logged
    assert answer.headers["x-request-id"] in logged
