# SPDX-License-Identifier: Apache-2.0
"""Bytes that are almost requests, and what may come back for them."""

import json
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

from service_harness import connect, frame

from tightseal.errors import CODES, Code
from tightseal.model.wire import PROBLEM_CONTENT_TYPE
from tightseal_sim.scene import Provider

INTERIM = 200
FIRST_ERROR = 400

LENGTHS = (
    *("", "0", "-1", "+2", "0x2", "2 ", "2,2", "1e3", "00002", "2\x00", "\xb2"),
    *("99999999999", "18446744073709551616", "9" * 400, "2\r\ncontent-length: 3"),
)
FIELDS = (
    *("transfer-encoding: chunked", "transfer-encoding: gzip, chunked"),
    *("transfer-encoding: identity", "transfer-encoding:\tchunked\x0b"),
    *("expect: 100-continue", "expect: x", "upgrade: h2c", "upgrade: websocket"),
    *("connection: upgrade", "connection: keep-alive, close", "connection:"),
    *("host: a\r\nhost: b", "host: \xff", "content-encoding: gzip", ": x", " x: y"),
    *("x: a\r\n b", "x" * 300 + ": y", "x: " + "y" * 20_000, "x\x00: y", "\xe9: y"),
    *("content-type: text/plain", "content-type: \xff\xfe", "trailer: x", "te: x"),
    *("sec-websocket-key: x", "http2-settings: AAMAAABk", "x-request-id: a\tb"),
)
TARGETS = (
    *("/", "*", "", "//", "/v1/keys/", "/v1/%6beys", "/%00", "/%ff%fe", "/%", "/\xff"),
    *("http://t/v1/keys", "http://", "t:1", "/v1/info?x=%00&y", "/v1/info#x", "?"),
    *("/" + "a" * 9_000, "/../../etc/passwd", "/v1/..;/info", "http://[::1/", "/a b"),
)
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "TRACE", "CONNECT", "PRI", "\xff", "")
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9.9", "http/1.1", "")
CHUNKS = (
    *("2\r\n{}\r\n0\r\n\r\n", "2;x\r\n{}\r\n0\r\nx: y\r\n\r\n", "0\r\n\r\n", "z"),
    *("-2\r\n{}\r\n", "FFFFFFFFFFFFFFFFF\r\n{}", "2\n{}\n0\n\n", "2\r\n{}xx0\r\n\r\n"),
    *("1\r\n{\r\n1\r\n}\r\n0\r\n\r\n", "ffffff\r\n{}", "2;" + "x" * 20_000 + "\r\n{}"),
)


def complaints(provider: Provider) -> list[str]:
    """Lines of a provider's log that no request may bring about."""
    lines = provider.log.read_text().splitlines()
    told = [json.loads(line) for line in lines if line[:1] + line[-1:] == "{}"]
    assert told
    words = ("Traceback", "unhandled", "internal_error", "never retrieved")
    return [
        *(json.dumps(line) for line in told if line["level"] in {"error", "critical"}),
        *(line for line in lines if any(word in line for word in words)),
    ]


def spoiled(rng: Random, data: bytes) -> bytes:
    """A few bytes changed, cut out, doubled or put in, or the end cut off."""
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 4, 30)))
        piece = rng.choice((b"", rng.randbytes(1), rng.randbytes(4), data[at:end] * 2))
        data = data[:at] + piece + data[end:]
        if rng.random() < 0.1:
            data = data[:at]
    return data


# -- HTTP --------------------------------------------------------------------------


@dataclass
class Draft:
    """A request in parts; the text of its head is latin-1."""

    method: str
    target: str
    body: bytes = b""
    version: str = "HTTP/1.1"
    fields: list[str] = field(default_factory=lambda: ["host: t"])
    framed: bool = True

    def encode(self) -> bytes:
        fields = list(self.fields)
        if self.framed and self.body:
            fields.append(f"content-length: {len(self.body)}")
        head = [f"{self.method} {self.target} {self.version}", *fields, "", ""]
        return "\r\n".join(head).encode("latin-1") + self.body


def bad_length(rng: Random, draft: Draft) -> None:
    draft.fields.append(f"content-length: {rng.choice(LENGTHS)}")
    draft.framed = rng.random() < 0.2


def bad_chunks(rng: Random, draft: Draft) -> None:
    draft.fields.append("transfer-encoding: chunked")
    draft.body, draft.framed = rng.choice(CHUNKS).encode(), rng.random() < 0.1


def bad_field(rng: Random, draft: Draft) -> None:
    draft.fields.insert(rng.randrange(len(draft.fields) + 1), rng.choice(FIELDS))


def many_fields(rng: Random, draft: Draft) -> None:
    draft.fields += [f"x-{n}: {n}" for n in range(rng.choice((50, 500)))]


def bad_target(rng: Random, draft: Draft) -> None:
    draft.target = rng.choice(TARGETS)


def bad_line(rng: Random, draft: Draft) -> None:
    draft.method, draft.version = rng.choice(METHODS), rng.choice(VERSIONS)


def bad_body(rng: Random, draft: Draft) -> None:
    draft.body = spoiled(rng, draft.body)


def no_fields(_rng: Random, draft: Draft) -> None:
    draft.fields.clear()


CHANGES: tuple[Callable[[Random, Draft], None], ...] = (
    *(bad_length, bad_chunks, bad_field, bad_field, many_fields),
    *(bad_target, bad_line, bad_body, bad_body, no_fields),
)


def http_bytes(rng: Random, good: Sequence[tuple[str, str, bytes]]) -> bytes:
    """One or several requests on a connection, most of them broken somewhere."""
    requests = []
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        draft = Draft(*rng.choice(good))
        for _ in range(rng.choice((0, 1, 1, 2))):
            rng.choice(CHANGES)(rng, draft)
        data = draft.encode()
        if rng.random() < 0.2:
            data = data.replace(b"\r\n", rng.choice((b"\n", b"\r", b"\r\n\r\n")))
        requests.append(spoiled(rng, data) if rng.random() < 0.3 else data)
    return b"".join(requests)


def check_responses(data: bytes, *, whole: bool = True) -> list[int]:
    """The statuses of a stream of responses, each of which has the right form.

    Args:
        data: all that came over one connection.
        whole: whether the last one must be complete.
    """
    statuses = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        if not end:
            assert not whole, head
            break
        first, *lines = head.decode("ascii").split("\r\n")
        version, status = first.split(" ")[:2]
        assert version == "HTTP/1.1", first
        statuses.append(int(status))
        assert int(status) < 500, first
        if int(status) < INTERIM:
            continue
        headers = dict(line.lower().split(": ", 1) for line in lines)
        # An answer to HEAD has the length of the body that it leaves out.
        if data and not data.startswith(b"HTTP/1.1 "):
            length = int(headers["content-length"])
            body, data = data[:length], data[length:]
            assert len(body) == length or not whole
            if int(status) >= FIRST_ERROR and len(body) == length:
                _check_problem(int(status), headers, body)
    return statuses


def _check_problem(status: int, headers: dict[str, str], body: bytes) -> None:
    assert headers["content-type"] == PROBLEM_CONTENT_TYPE
    document = json.loads(body)
    assert document["status"] == CODES[Code(document["code"])].status == status


# -- framed ------------------------------------------------------------------------


def framed_bytes(rng: Random, good: Sequence[bytes]) -> bytes:
    """A frame, or almost one, or several."""
    payload = rng.choice(good)
    if rng.random() < 0.7:
        payload = spoiled(rng, payload)
    data = frame(payload)
    kind = rng.randrange(6)
    if kind == 0:
        wrong = (0, 1, len(payload) - 1, len(payload) + 1, 8 << 20, 0xFFFFFFFF)
        data = rng.choice(wrong).to_bytes(4, "big") + payload
    elif kind == 1:
        data = spoiled(rng, data)
    elif kind == 2:
        data += spoiled(rng, data)
    return data


def check_frame(data: bytes, *, whole: bool = True) -> str:
    """The error code of an answer; empty for none, and for an answer that grants."""
    if not data or not whole:
        return ""
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    answer = json.loads(data[4:])
    if "error" not in answer:
        assert set(answer) == {"encrypted_key", "provider_quote"}
        return ""
    assert answer["message"] == CODES[Code(answer["error"])].public
    assert CODES[Code(answer["error"])].status < 500
    return str(answer["error"])


# -- one connection ----------------------------------------------------------------


def converse(rng: Random, port: int, data: bytes) -> tuple[bytes, bool]:
    """Send bytes in some pieces, and read until the end.

    Returns:
        what came, and whether the connection was closed in order.
    """
    got = bytearray()
    with connect(port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The other side may be gone already, with its answer waiting to be read.
        with suppress(OSError):
            for piece in _pieces(rng, data):
                connection.sendall(piece)
            if rng.random() < 0.3:
                connection.shutdown(socket.SHUT_WR)
        try:
            while part := connection.recv(65536):
                got += part
        except ConnectionError:
            return bytes(got), False
    return bytes(got), True


def _pieces(rng: Random, data: bytes) -> list[bytes]:
    cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.choice((0, 0, 1, 5))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
