# SPDX-License-Identifier: Apache-2.0
"""The framed TCP protocol: golden bytes, limits, and what a refusal looks like."""

import json
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_harness import (
    ScriptedAnswer,
    ScriptedProvider,
    ask_framed,
    connect,
    frame,
    receive_all,
    running,
    scripted_error,
    scripted_settings,
    until,
)

from tightseal.errors import Code, RequestError
from tightseal.service.framed import (
    MAX_QUOTE_BYTES,
    decode_request,
    encode_error,
    encode_response,
)
from tightseal.service.listen_settings import FramedSettings

# The golden frames of the protocol as its first implementations send them.
GOLDEN_REQUEST = bytes.fromhex("000000157b2271756f7465223a5b312c322c332c3235355d7d")
GOLDEN_QUOTE = bytes([1, 2, 3, 255])
GOLDEN_RESPONSE = bytes.fromhex(
    "0000002e7b22656e637279707465645f6b6579223a5b312c325d2c"
    "2270726f76696465725f71756f7465223a5b332c345d7d"
)


def quick(**limits: Any) -> FramedSettings:
    usual = {"first_byte_seconds": 0.5, "read_seconds": 0.6, "write_seconds": 0.6}
    return FramedSettings(**(usual | limits))


def test_golden_request_decodes() -> None:
    assert decode_request(GOLDEN_REQUEST[4:]) == GOLDEN_QUOTE


def test_golden_response_encodes() -> None:
    assert encode_response(b"\x01\x02", b"\x03\x04") == GOLDEN_RESPONSE


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_response_is_what_a_compact_encoder_writes(key: bytes, quote: bytes) -> None:
    value = {"encrypted_key": list(key), "provider_quote": list(quote)}
    payload = json.dumps(value, separators=(",", ":")).encode()
    assert encode_response(key, quote) == frame(payload)


@given(st.binary(max_size=300), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_any_quote_comes_back(quote: bytes, separators: tuple[str, str]) -> None:
    text = json.dumps({"quote": list(quote)}, separators=separators)
    assert decode_request(text.encode()) == quote


def test_unknown_fields_are_ignored_as_upstream_does() -> None:
    assert decode_request(b'{"version":2,"quote":[7],"x":{"y":[1]}}') == b"\x07"


MALFORMED = {
    "empty object": b"{}",
    "not JSON": b"quote",
    "not UTF-8": b'{"quote\xff":[1]}',
    "truncated": b'{"quote":[1,2',
    "trailing bytes": b'{"quote":[1]}x',
    "hex text": b'{"quote":"0102"}',
    "null": b'{"quote":null}',
    "object": b'{"quote":{"0":1}}',
    "number above 255": b'{"quote":[256]}',
    "negative number": b'{"quote":[-1]}',
    "fraction": b'{"quote":[1.5]}',
    "text in the list": b'{"quote":["1"]}',
    "boolean in the list": b'{"quote":[true]}',
    "list in the list": b'{"quote":[[1]]}',
    "given twice": b'{"quote":[1],"quote":[2]}',
    "deeply nested": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"quote":[1]}',
    "top-level list": b"[[1]]",
    "huge number": b'{"quote":[' + b"9" * 5000 + b"]}",
}


@pytest.mark.parametrize("payload", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_is_refused(payload: bytes) -> None:
    with pytest.raises(RequestError) as refused:
        decode_request(payload)
    assert refused.value.code is Code.REQUEST_MALFORMED


@given(st.binary(max_size=200))
def test_only_the_error_tree_leaves_the_decoder(payload: bytes) -> None:
    # Whatever else is raised fails the test by itself.
    with suppress(RequestError):
        decode_request(payload)


def test_quote_of_the_longest_length_passes_and_one_more_does_not() -> None:
    longest = b'{"quote":[' + b"0," * (MAX_QUOTE_BYTES - 1) + b"0]}"
    assert decode_request(longest) == bytes(MAX_QUOTE_BYTES)
    with pytest.raises(RequestError):
        decode_request(longest.replace(b"[0,", b"[0,0,", 1))


def test_millions_of_numbers_are_refused_before_they_are_built() -> None:
    with pytest.raises(RequestError) as refused:
        decode_request(b'{"quote":[' + b"0," * 3_000_000 + b"0]}")
    assert refused.value.code is Code.REQUEST_TOO_LARGE


# -- over a socket -----------------------------------------------------------------


def test_golden_exchange_and_close() -> None:
    with running() as run, connect(run.framed_port) as connection:
        connection.sendall(GOLDEN_REQUEST)
        assert receive_all(connection) == GOLDEN_RESPONSE
        assert run.provider.seen == [GOLDEN_QUOTE]


def test_request_in_single_bytes_and_half_closed() -> None:
    with running() as run, connect(run.framed_port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GOLDEN_REQUEST:
            connection.sendall(bytes([byte]))
        connection.shutdown(socket.SHUT_WR)
        assert receive_all(connection) == GOLDEN_RESPONSE


def test_half_close_before_a_slow_answer_still_gets_it() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as run, connect(run.framed_port) as connection:
        connection.sendall(GOLDEN_REQUEST)
        connection.shutdown(socket.SHUT_WR)
        until(lambda: bool(provider.seen))
        time.sleep(0.1)
        provider.open_gate()
        assert receive_all(connection) == GOLDEN_RESPONSE


def test_bytes_after_the_frame_are_ignored() -> None:
    with running() as run, connect(run.framed_port) as connection:
        connection.sendall(GOLDEN_REQUEST + GOLDEN_REQUEST)
        assert receive_all(connection) == GOLDEN_RESPONSE
        assert len(run.provider.seen) == 1


def test_response_as_long_as_real_ones() -> None:
    answer = ScriptedAnswer(bytes(range(80)), bytes(range(256)) * 19)
    with running(ScriptedProvider(answer)) as run:
        data = ask_framed(run.framed_port, b'{"quote":[1]}')
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert json.loads(data[4:]) == {
        "encrypted_key": list(answer.encrypted_key),
        "provider_quote": list(answer.provider_quote),
    }


REFUSED = {
    "length zero": bytes(4) + b"{}",
    "length beyond the limit": (8 * 1024 * 1024 + 1).to_bytes(4, "big"),
    "length of four gigabytes": b"\xff\xff\xff\xff",
    "HTTP on this port": b"GET / HTTP/1.1\r\n\r\n",
    "wrong JSON": frame(b"{"),
    "wrong type": frame(b'{"quote":"00"}'),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refusal_closes_without_an_answer(data: bytes) -> None:
    with running() as run:
        with connect(run.framed_port) as connection:
            connection.sendall(data)
            assert receive_all(connection) == b""
        assert run.provider.seen == []
        assert ask_framed(run.framed_port, b'{"quote":[1]}') == GOLDEN_RESPONSE


def test_denied_evidence_closes_without_an_answer() -> None:
    provider = ScriptedProvider(error=scripted_error(Code.TCB_REVOKED))
    with running(provider) as run:
        assert ask_framed(run.framed_port, b'{"quote":[1]}') == b""
        text = run.front.metrics.render().decode()
    wanted = 'tightseal_requests_total{code="tcb_revoked",protocol="legacy"} 1.0'
    assert wanted in text


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (scripted_error(Code.TCB_REVOKED), Code.TCB_REVOKED),
        (RuntimeError("a secret, perhaps"), Code.INTERNAL),
    ],
)
def test_json_errors_say_code_and_public_sentence_only(
    error: BaseException, code: Code
) -> None:
    settings = scripted_settings(json_errors=True)
    with running(ScriptedProvider(error=error), settings) as run:
        data = ask_framed(run.framed_port, b'{"quote":[1]}')
    expected = encode_error(scripted_error(code))
    assert data == expected
    assert b"expected this" not in data
    assert b"secret" not in data


def test_truncated_request_ends_at_once() -> None:
    with running() as run, connect(run.framed_port) as connection:
        connection.sendall(GOLDEN_REQUEST[:-3])
        connection.shutdown(socket.SHUT_WR)
        start = time.monotonic()
        assert receive_all(connection) == b""
        assert time.monotonic() - start < 1
        assert run.provider.seen == []


def test_silent_connection_is_closed_after_the_first_byte_limit() -> None:
    settings = scripted_settings(framed=quick())
    with running(settings=settings) as run, connect(run.framed_port) as connection:
        start = time.monotonic()
        assert receive_all(connection) == b""
        assert 0.4 < time.monotonic() - start < 2


def test_slow_request_is_cut_off_although_bytes_keep_coming() -> None:
    settings = scripted_settings(framed=quick(), json_errors=True)
    with running(settings=settings) as run, connect(run.framed_port) as connection:
        start = time.monotonic()
        stopped = threading.Event()

        def drip() -> None:
            for byte in GOLDEN_REQUEST[:20] * 3:
                if stopped.wait(0.1):
                    return
                try:
                    connection.sendall(bytes([byte]) if byte else b"\0")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        data = receive_all(connection)
        spent = time.monotonic() - start
        stopped.set()
        thread.join()
        assert spent < 2.5
        assert data in (b"", encode_error(RequestError(Code.REQUEST_TIMEOUT, "")))
        assert run.provider.seen == []


def test_answer_that_takes_too_long_is_given_up() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    settings = scripted_settings(framed=quick(total_seconds=0.8), json_errors=True)
    with running(provider, settings) as run:
        start = time.monotonic()
        data = ask_framed(run.framed_port, b'{"quote":[1]}')
        assert time.monotonic() - start < 3
        assert json.loads(data[4:])["error"] == "overloaded"


def test_client_that_never_reads_is_aborted() -> None:
    answer = ScriptedAnswer(bytes(80), bytes(4 << 20))
    settings = scripted_settings(framed=quick())
    with running(ScriptedProvider(answer), settings) as run:
        with connect(run.framed_port) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(frame(b'{"quote":[1]}'))
            until(lambda: bool(run.provider.seen))
            table = run.worker._tables["framed"]
            until(lambda: len(table) == 0, seconds=5)
        assert run.front.budget.held == 0


def test_oldest_idle_connection_goes_first() -> None:
    settings = scripted_settings(
        framed=FramedSettings(max_connections=3, max_per_peer=3)
    )
    with running(settings=settings) as run:
        held = []
        for _ in range(3):
            held.append(connect(run.framed_port))
            time.sleep(0.05)
        assert ask_framed(run.framed_port, b'{"quote":[1]}') == GOLDEN_RESPONSE
        assert receive_all(held[0]) == b""
        held[2].sendall(GOLDEN_REQUEST)
        assert receive_all(held[2]) == GOLDEN_RESPONSE
        for connection in held:
            connection.close()


def test_connection_being_served_is_never_evicted() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    settings = scripted_settings(
        framed=FramedSettings(max_connections=1, max_per_peer=1)
    )
    with running(provider, settings) as run, connect(run.framed_port) as served:
        served.sendall(GOLDEN_REQUEST)
        until(lambda: bool(provider.seen))
        with connect(run.framed_port) as late:
            assert receive_all(late) == b""
        provider.open_gate()
        assert receive_all(served) == GOLDEN_RESPONSE


def test_buffered_bytes_are_bounded_over_all_connections() -> None:
    settings = scripted_settings(max_buffered_bytes=8 << 20, json_errors=True)
    half = (8 << 20).to_bytes(4, "big") + b" " * (5 << 20)
    with running(settings=settings) as run, connect(run.framed_port) as first:
        first.sendall(half)
        until(lambda: run.front.budget.held > 4 << 20)
        with connect(run.framed_port) as second:
            with suppress(ConnectionError):
                second.sendall(half)
            data = receive_all(second)
        assert data == b"" or json.loads(data[4:])["error"] == "overloaded"
        first.close()
        until(lambda: run.front.budget.held == 0)
        assert ask_framed(run.framed_port, b'{"quote":[1]}') == GOLDEN_RESPONSE


def test_full_queue_refuses_and_recovers() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    settings = scripted_settings(queue=1, json_errors=True)
    with running(provider, settings) as run:
        held = [connect(run.framed_port) for _ in range(3)]
        for connection in held:
            connection.sendall(GOLDEN_REQUEST)
        until(lambda: run.front.quote_pool.in_flight == 3)
        data = ask_framed(run.framed_port, b'{"quote":[1]}')
        assert json.loads(data[4:])["error"] == "overloaded"
        provider.open_gate()
        assert [receive_all(c) for c in held] == [GOLDEN_RESPONSE] * 3
        for connection in held:
            connection.close()


def test_a_stop_lets_requests_in_flight_finish() -> None:
    provider = ScriptedProvider(gate=threading.Event())
    with running(provider) as run:
        with connect(run.framed_port) as busy, connect(run.framed_port) as idle:
            busy.sendall(GOLDEN_REQUEST)
            until(lambda: bool(provider.seen))
            run.loop.call_soon_threadsafe(run.worker.stop)
            assert receive_all(idle) == b""
            provider.open_gate()
            assert receive_all(busy) == GOLDEN_RESPONSE
        run.thread.join(5)
        assert not run.thread.is_alive()
