# SPDX-License-Identifier: Apache-2.0
"""Looks for key bytes in whatever a run left behind, in every form they could have."""

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

PIECE_BYTES = 8
"""A part of a key of this length is found too: half a key is no secret any more, and a
part this long does not come about by chance."""


def forms(piece: bytes) -> Iterator[bytes]:
    """Bytes as a log, a document, a database or a dump may have them."""
    yield piece
    yield piece.hex().encode()
    yield piece.hex().upper().encode()
    yield piece.hex(":").encode()
    yield from _base64(piece)
    for text in {repr(piece), repr(b"'" + piece), repr(b"'" + b'"' + piece)}:
        yield text[2:-1].removeprefix("'").removeprefix("\\'\"").encode()
    yield json.dumps(piece.decode("latin-1"))[1:-1].encode()
    yield piece.decode("latin-1").encode("utf-8")
    yield ", ".join(map(str, piece)).encode()
    yield ",".join(map(str, piece)).encode()


def _base64(piece: bytes) -> Iterator[bytes]:
    """As a part of something longer, wherever it stands in there."""
    for before in range(3):
        padded = bytes(before) + piece
        whole = len(padded) - len(padded) % 3
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # The first characters share bits with what stands before.
            yield encode(padded[:whole])[(0, 2, 3)[before] :]


@dataclass
class Search:
    """Secrets, and where they were found.

    Args:
        secrets: by the name that a finding is told with.
    """

    secrets: Mapping[str, bytes]
    looked_at: int = field(default=0, init=False)
    _needles: dict[bytes, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name, secret in self.secrets.items():
            assert len(secret) >= PIECE_BYTES, name
            assert len(set(secret)) > 4, f"{name} looks like anything"
            for start in range(0, len(secret) - PIECE_BYTES + 1, PIECE_BYTES):
                for form in forms(secret[start : start + PIECE_BYTES]):
                    self._needles.setdefault(form, name)

    def found_in(self, data: bytes) -> set[str]:
        """The names of the secrets that bytes show."""
        self.looked_at += len(data)
        return {name for needle, name in self._needles.items() if needle in data}

    def found_in_files(self, paths: Iterable[Path]) -> dict[str, set[str]]:
        """Files that show any, and which."""
        found = {str(path): self.found_in(path.read_bytes()) for path in paths}
        return {path: names for path, names in found.items() if names}


class Wire(httpx.BaseTransport):
    """Real HTTP, and all that went over it."""

    def __init__(self) -> None:
        self._real = httpx.HTTPTransport(trust_env=False)
        self.said: list[bytes] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._real.handle_request(request)
        body = response.read()
        for message in (request, response):
            heads = b"".join(name + value for name, value in message.headers.raw)
            self.said.append(str(request.url).encode() + heads)
        self.said += [request.read(), body]
        # The one that was read has nothing left for a client that streams.
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=httpx.ByteStream(body),
            extensions=response.extensions,
        )

    def close(self) -> None:
        """Nothing: several clients share this one."""
