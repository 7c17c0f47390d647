# SPDX-License-Identifier: Apache-2.0
"""A provider with a scripted pipeline behind the real transports.

Run as a script, it serves in a process of its own and prints its two ports.
"""

import asyncio
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from tightseal.errors import (
    Code,
    EvidenceError,
    PolicyError,
    RequestError,
    TightsealError,
)
from tightseal.model import wire
from tightseal.model.provider import ProviderIdentity
from tightseal.model.settings import LegacySettings, ReleaseSettings
from tightseal.model.wire_operator import ActionDone, PolicyAccepted
from tightseal.release.begun import Begun, Finished
from tightseal.service.connections import ByteBudget
from tightseal.service.front import Front
from tightseal.service.health import Health
from tightseal.service.listen_settings import FramedSettings, HttpSettings
from tightseal.service.logs import configure_logs
from tightseal.service.metrics import Metrics
from tightseal.service.pool import WorkPool
from tightseal.service.server import Listeners, Worker, run_worker
from tightseal.service.settings import HostSettings, Settings

NOW = 1_790_000_000

Background: TypeAlias = Callable[[threading.Event], None]


@dataclass(frozen=True)
class ScriptedAnswer:
    encrypted_key: bytes
    provider_quote: bytes
    tenant: str = "scripted"
    held: None = None


@dataclass
class ScriptedProvider:
    """Answers from a script; counts what it was asked."""

    answer: ScriptedAnswer = field(
        default_factory=lambda: ScriptedAnswer(b"\x01\x02", b"\x03\x04")
    )
    error: BaseException | None = None
    gate: threading.Event | None = None
    seen: list[bytes] = field(default_factory=list)
    release: ReleaseSettings = field(default_factory=ReleaseSettings)

    def open_gate(self) -> None:
        """Let every call go on, those to come too."""
        if self.gate is not None:
            self.gate.set()

    def _step(self, what: bytes) -> None:
        self.seen.append(what)
        if self.gate is not None:
            self.gate.wait(10)
        if self.error is not None:
            raise self.error

    def challenge(
        self, request: wire.ChallengeRequest, *, now: int
    ) -> wire.ChallengeResponse:
        assert now == NOW
        request.parsed()
        raise EvidenceError(Code.QUOTE_MALFORMED, "scripted")

    def keys(self, body: bytes, *, now: int) -> bytes:
        assert now == NOW
        self._step(body)
        return b'{"echo":"%b"}' % hashlib.sha256(body).hexdigest().encode()

    def begin(self, body: bytes, *, now: int) -> Begun:
        assert now == NOW
        return Begun(b"", lambda now: Finished(self.keys(body, now=now)))

    def legacy(self, quote: bytes, *, now: int) -> ScriptedAnswer:
        assert now == NOW
        self._step(quote)
        return self.answer

    def settings(self) -> ReleaseSettings:
        return self.release

    def public_key(
        self, request: wire.PublicKeyRequest, *, now: int
    ) -> wire.PublicKeyResponse:
        assert now == NOW
        request.parsed()
        raise PolicyError(Code.PURPOSE_NOT_ALLOWED, "scripted")

    def publish(self, bundle: bytes, *, now: int) -> PolicyAccepted:
        assert now == NOW
        self._step(bundle)
        return PolicyAccepted(policy_version=7, digest="AA", expires_at=NOW + 1)

    def admit(self, action: bytes, *, now: int) -> None:
        assert now == NOW
        if action.startswith(b"unsigned"):
            raise RequestError(Code.ACTION_UNDERSIGNED, "scripted")

    def act(self, action: bytes, *, now: int) -> ActionDone:
        assert now == NOW
        self._step(action)
        return ActionDone(entry_id="AA")

    def hand_over(self, body: bytes, *, now: int) -> Finished:
        assert now == NOW
        self._step(body)
        return Finished(b"{}")

    def info(self, *, now: int) -> wire.InfoResponse:
        assert now == NOW
        identity = ProviderIdentity(
            tee="sgx",
            measurement=bytes(32),
            keyring_id=bytes(32),
            policy_root=None,
            settings_digest=bytes(64),
        )
        return wire.InfoResponse(
            versions=[1],
            identity=wire.ProviderIdentityJson.of(identity),
            trust_domain="intel",
            simulated=False,
            kems=["x25519"],
            legacy=True,
        )


def scripted_settings(
    *,
    http: HttpSettings | None = None,
    framed: FramedSettings | None = None,
    json_errors: bool = False,
    **host: Any,
) -> Settings:
    return Settings(
        host=HostSettings(
            http=http or HttpSettings(),
            framed=framed or FramedSettings(),
            **host,
        ),
        release=ReleaseSettings(
            legacy=LegacySettings(enabled=True, json_errors=json_errors)
        ),
    )


def scripted_front(
    provider: ScriptedProvider,
    settings: Settings,
    probes: dict[str, Callable[[], object]] | None = None,
) -> Front:
    queue = settings.host.queue
    provider.release = settings.release
    return Front(
        provider=provider,
        clock=lambda: NOW,
        settings=settings,
        metrics=Metrics(),
        health=Health(probes or {}),
        pool=WorkPool("work", threads=2, queue=queue),
        quote_pool=WorkPool("quote", threads=2, queue=queue),
        operator_pool=WorkPool("operator", threads=1, queue=queue),
        budget=ByteBudget(settings.host.max_buffered_bytes),
        operator_budget=ByteBudget(settings.host.max_buffered_bytes),
    )


@dataclass
class Served:
    """A running worker and where it listens."""

    front: Front
    http_port: int
    framed_port: int
    loop: asyncio.AbstractEventLoop
    worker: Worker
    thread: threading.Thread

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.worker.stop)
        self.thread.join(20)
        assert not self.thread.is_alive()


@dataclass
class Running(Served):
    """A running worker with a scripted pipeline."""

    provider: ScriptedProvider


def wait_for_end(ended: threading.Event) -> None:
    """A background that does nothing."""
    ended.wait()


def listener(address: str = "127.0.0.1") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, 0), family=family, backlog=4096)


@contextmanager
def running(
    provider: ScriptedProvider | None = None,
    settings: Settings | None = None,
    probes: dict[str, Callable[[], object]] | None = None,
) -> Iterator[Running]:
    provider = provider or ScriptedProvider()
    settings = settings or scripted_settings()
    front = scripted_front(provider, settings, probes)
    front.health.look()
    with serving(front) as served:
        run = Running(**vars(served), provider=provider)
        try:
            yield run
        finally:
            provider.open_gate()


@contextmanager
def serving(
    front: Front, *, address: str = "127.0.0.1", background: Background = wait_for_end
) -> Iterator[Served]:
    """Serve a front on free ports, in a thread of this process."""
    http, framed = listener(address), listener(address)
    ready = threading.Event()
    found: list[tuple[asyncio.AbstractEventLoop, Worker]] = []
    thread = threading.Thread(
        target=run_worker,
        args=(front, Listeners(http, framed, shared=False)),
        kwargs={
            "background": background,
            "attach": lambda loop, worker: found.append((loop, worker)),
            "on_ready": ready.set,
        },
        daemon=True,
    )
    thread.start()
    assert ready.wait(10)
    loop, worker = found[0]
    served = Served(
        front=front,
        http_port=http.getsockname()[1],
        framed_port=framed.getsockname()[1],
        loop=loop,
        worker=worker,
        thread=thread,
    )
    try:
        yield served
    finally:
        if thread.is_alive():
            served.stop()
        http.close()
        framed.close()


def connect(port: int, timeout: float = 10) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=timeout)


def receive_all(connection: socket.socket) -> bytes:
    """Everything until the other side closes; a reset counts as closing."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(4, "big") + payload


def ask_framed(port: int, payload: bytes, timeout: float = 10) -> bytes:
    with connect(port, timeout) as connection:
        connection.sendall(frame(payload))
        return receive_all(connection)


def http_request(
    method: str, path: str, body: bytes = b"", *, headers: str = "", close: bool = True
) -> bytes:
    end = "connection: close\r\n" if close else ""
    head = f"{method} {path} HTTP/1.1\r\nhost: t\r\n{headers}{end}"
    if body and "content-length" not in headers:
        head += f"content-length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + body


@dataclass(frozen=True)
class HttpAnswer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def parse_http(data: bytes) -> HttpAnswer:
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines[1:])
    return HttpAnswer(int(lines[0].split()[1]), headers, body)


def ask_http(
    port: int, method: str, path: str, body: bytes = b"", *, headers: str = ""
) -> HttpAnswer:
    with connect(port) as connection:
        connection.sendall(http_request(method, path, body, headers=headers))
        return parse_http(receive_all(connection))


def until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.01)


def scripted_error(code: Code) -> TightsealError:
    return EvidenceError(code, "expected this, got that")


def main() -> None:
    """Serve in this process: settings as JSON on the command line."""
    settings = msgspec.json.decode(sys.argv[1], type=Settings)
    configure_logs(settings.host.log, simulated=False)
    front = scripted_front(ScriptedProvider(), settings)
    front.health.look()
    http, framed = listener(), listener()
    ports = [s.getsockname()[1] for s in (http, framed)]
    run_worker(
        front,
        Listeners(http, framed, shared=False),
        background=wait_for_end,
        attach=lambda _loop, _worker: None,
        on_ready=lambda: print(json.dumps(ports), flush=True),  # noqa: T201
    )


HARNESS = Path(__file__)

if __name__ == "__main__":
    main()
