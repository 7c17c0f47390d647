# SPDX-License-Identifier: Apache-2.0
"""The transport under TLS: half-open peers, large bodies, ends, keys in memory."""

import errno
import os
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from service_harness import (
    ScriptedProvider,
    Served,
    http_request,
    parse_http,
    receive_all,
    scripted_front,
    scripted_settings,
    serving,
    until,
)
from service_world import SEED
from tls_scene import any_certificate

from tightseal.errors import Code, PlatformError, SettingsError
from tightseal.evidence.certificate import read_certificate
from tightseal.model.tagged_evidence import EVIDENCE_OID
from tightseal.platform.tls_key import TlsKey
from tightseal.service.listen_settings import (
    HttpSettings,
    TlsMode,
    TlsSettings,
)
from tightseal.service.settings import (
    HostSettings,
    PlatformKind,
    PlatformSettings,
)
from tightseal.service.tls import ServerTls, open_tls
from tightseal_sim.amd.guest import GuestImage
from tightseal_sim.world import World

BUNDLE_BYTES = 300_000
WORLD = World.in_memory(seed=bytes(32))
IMAGE = GuestImage(kernel=b"provider")


@dataclass
class Tls(Served):
    provider: ScriptedProvider

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.http_port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.http_port), timeout=10)


@contextmanager
def running(limits: HttpSettings | None = None) -> Iterator[Tls]:
    now, key = int(time.time()), TlsKey.derived(SEED)
    tls = open_tls(
        HostSettings(tls=TlsSettings(mode=TlsMode.SELF)),
        WORLD.amd.chip("host", "Milan").launch(IMAGE),
        seed=SEED,
        now=now,
    )
    assert tls is not None
    assert tls.key_hash == key.key_hash
    provider = ScriptedProvider()
    front = scripted_front(provider, scripted_settings(http=limits))
    with serving(replace(front, tls=tls)) as served:
        yield Tls(**vars(served), provider=provider)


def test_silent_handshakes_end_in_time_and_shut_nobody_out() -> None:
    limits = HttpSettings(max_connections=8, max_per_peer=8, head_seconds=1.0)
    with running(limits) as run:
        silent = [run.connect() for _ in range(40)]
        # Beyond eight, the oldest silent one goes: a good one gets in at once.
        with httpx.Client(verify=any_certificate(), trust_env=False) as plain:
            assert plain.get(run.url + "/healthz").json() == {"alive": True}
        table = run.worker._tables["http"]
        assert len(table) <= 8
        until(lambda: len(table) == 0, 5)
        for connection in silent:
            assert receive_all(connection) == b""
            connection.close()


def test_a_handshake_by_drops_ends_in_time() -> None:
    with running(HttpSettings(head_seconds=1.0)) as run, run.connect() as slow:
        begun = time.monotonic()
        # The head of a long record, and then a byte of it now and then.
        slow.sendall(b"\x16\x03\x01\x40\x00")
        with suppress(OSError):
            while time.monotonic() - begun < 8:
                slow.sendall(b"\x01")
                time.sleep(0.1)
        assert 0.8 < time.monotonic() - begun < 5


def test_a_place_is_counted_once() -> None:
    limits = HttpSettings(max_connections=3, max_per_peer=3)
    with running(limits) as run:
        kept = [any_certificate().wrap_socket(run.connect()) for _ in range(3)]
        table = run.worker._tables["http"]
        until(lambda: len(table) == 3)
        for connection in kept:
            connection.sendall(http_request("GET", "/healthz"))
            assert parse_http(receive_all(connection)).status == 200
            connection.close()


def test_a_large_body_goes_through() -> None:
    body = os.urandom(BUNDLE_BYTES)
    with running() as run:
        with httpx.Client(verify=any_certificate(), trust_env=False) as plain:
            assert plain.post(run.url + "/v1/policy", content=body).status_code == 200
        assert run.provider.seen == [body]


def test_a_peer_that_ends_tls_midway_is_let_go() -> None:
    with running() as run:
        table = run.worker._tables["http"]
        tls = any_certificate().wrap_socket(run.connect())
        tls.sendall(b"POST /v1/keys HTTP/1.1\r\nhost: t\r\ncontent-length: 99\r\n\r\n{")
        until(lambda: len(table) == 1)
        tls.setblocking(False)
        with suppress(OSError):
            tls.unwrap()
        until(lambda: len(table) == 0, 5)
        tls.close()


def test_the_end_waits_for_neither_idle_nor_half_open_peers() -> None:
    with running() as run:
        idle = any_certificate().wrap_socket(run.connect())
        idle.sendall(http_request("GET", "/healthz", close=False))
        assert idle.recv(65536).startswith(b"HTTP/1.1 200")
        half = run.connect()
        table = run.worker._tables["http"]
        until(lambda: len(table) == 2)
        begun = time.monotonic()
        run.stop()
        assert time.monotonic() - begun < 5
        for connection in (idle, half):
            connection.close()


# -- keys in memory --------------------------------------------------------------------


def test_without_files_in_memory_there_is_no_own_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def missing(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("tightseal.service.tls.os.memfd_create", missing)
    guest = WORLD.amd.chip("host", "Milan")
    platform = guest.launch(IMAGE)

    def opened(kind: PlatformKind) -> ServerTls | None:
        host = HostSettings(
            tls=TlsSettings(mode=TlsMode.SELF), platform=PlatformSettings(kind=kind)
        )
        return open_tls(host, platform, seed=SEED, now=int(time.time()))

    with pytest.raises(SettingsError, match="no file in memory"):
        opened(PlatformKind.SEV_GUEST)
    # Gramine's manifests mount one folder in enclave memory.
    monkeypatch.setattr("tightseal.service.tls.MEMORY_FOLDER", tmp_path)
    assert opened(PlatformKind.GRAMINE) is not None
    assert list(tmp_path.iterdir()) == []


def test_an_snp_guest_has_a_certificate_without_evidence() -> None:
    chip = WORLD.amd.chip("host", "Milan")
    key, now = TlsKey.derived(SEED), int(time.time())
    pem = key.certificate(platform=chip.launch(IMAGE), now=now, not_after=now + 60)
    read = read_certificate(ssl.PEM_cert_to_DER_cert(pem.decode()))
    assert read.spki == key.spki
    assert EVIDENCE_OID not in read.extensions


# -- renewal ---------------------------------------------------------------------------


def test_a_quote_that_fails_leaves_the_certificate_and_is_asked_for_again() -> None:
    asked: list[tuple[int, int]] = []
    broken = [True]
    first, second = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))

    def renew(now: int, life: int) -> ssl.SSLContext:
        asked.append((now, life))
        if broken[0]:
            raise PlatformError(Code.PLATFORM_FAILED, "no quote")
        return second

    tls = ServerTls(key_hash=bytes(32), context=first, renew=renew)
    with pytest.raises(PlatformError):
        tls.look(now=1000, life=100)
    tls.look(now=1009, life=100)
    assert (tls.context, asked) == (first, [(1000, 100)])
    # A clock that went back does not put the next try off for long.
    broken[0] = False
    tls.look(now=500, life=100)
    assert (tls.context, asked[-1]) == (second, (500, 100))
    tls.look(now=599, life=100)
    assert len(asked) == 2
    tls.look(now=600, life=100)
    tls.look(now=600, life=50)
    assert asked[2:] == [(600, 100), (600, 50)]


def test_files_are_never_renewed() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls = ServerTls(key_hash=bytes(32), context=context)
    tls.look(now=1, life=60)
    assert tls.context is context
