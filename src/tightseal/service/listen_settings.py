# SPDX-License-Identifier: Apache-2.0
"""Host settings of the transports: TLS, times, sizes, and who waits in a flood."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from tightseal.errors import Code, SettingsError
from tightseal.service.setting import Connections, Seconds, about

__all__ = ["FramedSettings", "HostLimits", "HttpSettings", "TlsMode", "TlsSettings"]


class TlsMode(StrEnum):
    """Where TLS ends, and with whose key."""

    OFF = "off"
    SELF = "self"
    FILES = "files"


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """TLS 1.3 of the HTTP API, where it ends in the provider."""

    mode: Annotated[
        TlsMode,
        about("off; self: a key made in the TEE, attested; files: a key of the host"),
    ] = TlsMode.OFF
    certificate: Annotated[
        str, about("files: PEM of the certificate, then of its issuers")
    ] = ""
    key: Annotated[str, about("files: PEM of its private key, not encrypted")] = ""

    def __post_init__(self) -> None:
        """Refuse files that the mode does not read, or lacks."""
        files = self.mode is TlsMode.FILES
        if not files == bool(self.certificate) == bool(self.key):
            wanted = "needs" if files else "takes no"
            message = f"host.tls.mode {self.mode.value} {wanted} certificate and key"
            raise SettingsError(Code.SETTINGS_INVALID, message)


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the HTTP transport, per worker."""

    max_connections: Annotated[
        Connections, about("open connections; beyond, the oldest idle one goes")
    ] = 1024
    max_per_peer: Annotated[
        Connections, about("open connections of one address (IPv6: of one /64)")
    ] = 512
    head_seconds: Annotated[
        Seconds, about("from connect, or first byte, to a whole request head, seconds")
    ] = 5.0
    body_seconds: Annotated[
        Seconds, about("from head to the last byte of the body, seconds")
    ] = 10.0
    request_seconds: Annotated[
        Seconds, about("from the whole request to its response, seconds")
    ] = 25.0
    write_seconds: Annotated[
        Seconds, about("to take the response after the last word, seconds")
    ] = 10.0
    idle_seconds: Annotated[
        Seconds, about("between two requests on one connection, seconds")
    ] = 60.0
    max_head_bytes: Annotated[
        int, about("request line and headers, bytes", ge=1024, le=65536)
    ] = 16384
    metrics: Annotated[bool, about("whether /metrics is served")] = True
    log: Annotated[
        bool, about("whether the tiles of host.log_tiles are served under /v1/log/")
    ] = False


class FramedSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds of the framed TCP transport, per worker.

    A guest waits 30 seconds, so the total stays below that.
    """

    max_connections: Annotated[
        Connections, about("open connections; beyond, the oldest idle one goes")
    ] = 512
    max_per_peer: Annotated[
        Connections, about("open connections of one address (IPv6: of one /64)")
    ] = 256
    first_byte_seconds: Annotated[
        Seconds, about("from connect to the first byte, seconds")
    ] = 2.0
    read_seconds: Annotated[
        Seconds, about("from the first byte to the whole request, seconds")
    ] = 10.0
    write_seconds: Annotated[Seconds, about("to take the response, seconds")] = 10.0
    total_seconds: Annotated[
        float, about("from connect to the response, seconds", gt=0, lt=30)
    ] = 28.0
    max_frame_bytes: Annotated[
        int, about("longest request frame, bytes", ge=65536, le=8 << 20)
    ] = 8 << 20


class HostLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What protects this host from floods; a source is an address, or an IPv6 /64.

    The limits of release settings decide what is released. These decide who waits.
    """

    requests_per_second: Annotated[
        float,
        about("requests of one source a second, per worker; 0: off", ge=0, le=1e6),
    ] = 2000.0
    failures_per_second: Annotated[
        float,
        about("bad requests of one source a second, per worker; 0: off", ge=0, le=1e4),
    ] = 20.0
    failure_burst: Annotated[
        int, about("bad requests that may come at once", ge=1, le=1_000_000)
    ] = 500
    known_seconds: Annotated[
        int,
        about(
            "that a good verification counts for, in seconds; 0: off", ge=0, le=604_800
        ),
    ] = 3600
    reserved_share: Annotated[
        float,
        about("of threads and queue, for who verified well of late", gt=0, lt=1),
    ] = 0.9
    shared_verifications_per_minute: Annotated[
        int,
        about("verifications of one source, over all nodes; 0: off", ge=0, le=10**6),
    ] = 0
    shared_failures_per_minute: Annotated[
        int,
        about("failed verifications of one source, likewise; 0: off", ge=0, le=10**6),
    ] = 0
