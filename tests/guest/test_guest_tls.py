# SPDX-License-Identifier: Apache-2.0
"""The client over real TLS: the certificate's key is the one that was attested."""

import asyncio
import hashlib
import http.server
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID
from scripted_provider import (
    NOW,
    Provider,
    Workload,
    terms,
)

from tightseal.errors import (
    ProviderError,
)
from tightseal.guest.async_client import AsyncClient
from tightseal.guest.client import Client
from tightseal.guest.http import Bounds
from tightseal.guest.response import ReleasedKeys
from tightseal.model.keypath import KeyRequest

DISK = KeyRequest("disk")
both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
CHALLENGE = "/v1/challenge"


def certificate(folder: Path) -> tuple[Path, bytes]:
    """A self-signed certificate with its key in one file, and the hash of its SPKI."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    today = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(today - timedelta(days=1))
        .not_valid_after(today + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "tls.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(private + built.public_bytes(Encoding.PEM))
    spki = key.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return path, hashlib.sha256(spki).digest()


@contextmanager
def tls_server(provider: Provider, pem: Path) -> Iterator[str]:
    class Serve(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = self.rfile.read(length)
            path = self.path
            answer = provider.challenge if path == CHALLENGE else provider.release
            content = answer(body)
            self.send_response(200)
            self.send_header("content-type", "application/json; charset=utf-8")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = http.server.HTTPServer(("127.0.0.1", 0), Serve)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@both
def test_the_attested_tls_key_over_real_tls(tmp_path: Path, asynchronous: bool) -> None:  # noqa: FBT001
    pem, spki_hash = certificate(tmp_path)

    def ask(url: str, provider: Provider) -> ReleasedKeys:
        common: dict[str, Any] = {
            "source": Workload(provider.evidence),
            "terms": terms(provider),
            "clock": lambda: NOW,
            "tls": ssl.create_default_context(cafile=str(pem)),
            "bounds": Bounds(attempts=1),
        }
        if not asynchronous:
            with Client(url, **common) as client:
                return client.keys(DISK)

        async def whole() -> ReleasedKeys:
            async with AsyncClient(url, **common) as client:
                return await client.keys(DISK)

        return asyncio.run(whole())

    def bound(key_hash: bytes) -> Provider:
        return Provider(binding_before=lambda b: replace(b, tls_key_hash=key_hash))

    good, other = bound(spki_hash), bound(bytes(32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        with tls_server(good, pem) as url:
            assert len(ask(url, good).get("disk")) == 32
        with (
            tls_server(other, pem) as url,
            pytest.raises(ProviderError, match="another key"),
        ):
            ask(url, other)
