# SPDX-License-Identifier: Apache-2.0
"""Where TLS ends in the provider: its key, its certificate, and their renewal.

TLS 1.3 alone, without session tickets: a resumed session shows no certificate. Whoever
connects gets the newest certificate; connections that stand keep theirs, and the key is
the same as long as the provider runs.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tightseal.errors import Code, SettingsError, TightsealError
from tightseal.model.ports import RootPlatform
from tightseal.model.secret import Secret
from tightseal.platform.tls_key import TlsKey
from tightseal.service.listen_settings import TlsMode
from tightseal.service.settings import HostSettings, PlatformKind

__all__ = ["ServerTls", "open_tls"]

MAX_CERTIFICATE_FILE_BYTES: Final = 1 << 20
MEMORY_FOLDER: Final = Path("/tmp")  # noqa: S108  # in the enclave: see _in_memory
"""Where the manifests mount a tmpfs: Gramine keeps it in the enclave's memory."""

RETRY_SECONDS: Final = 10
"""How long after a failed quote another one is asked for."""

FIRST_SECONDS: Final = 3600
"""Life of the certificate without evidence, until the first one with it is made."""


class ServerTls:
    """The TLS of one worker. Thread-safe.

    Args:
        key_hash: SHA-256 of the SPKI of the key, 32 bytes; the binding names it.
        context: what connections are accepted with.
        renew: makes the context of an epoch that begins, given Unix seconds and the
            seconds of an epoch; ``None`` where nothing is renewed.
    """

    def __init__(
        self,
        *,
        key_hash: bytes,
        context: ssl.SSLContext,
        renew: Callable[[int, int], ssl.SSLContext] | None = None,
    ) -> None:
        self.key_hash = key_hash
        self._context = context
        self._renew = renew
        self._made: tuple[int, int] | None = None
        self._retry_at = 0
        self._lock = threading.Lock()

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection is accepted with."""
        return self._context

    def look(self, *, now: int, life: int) -> None:
        """Make the certificate anew where another epoch began.

        The one before stays in use where that fails; it is tried again later.

        Args:
            now: Unix seconds.
            life: seconds of an epoch of the attested key.

        Raises:
            PlatformError: the platform gave no quote.
        """
        epoch = life, now // life
        if self._renew is None or self._made == epoch:
            return
        with self._lock:
            if self._made == epoch or now < self._retry_at <= now + RETRY_SECONDS:
                return
            self._retry_at = now + RETRY_SECONDS
            self._context = self._renew(now, life)
            self._made = epoch
            self._retry_at = 0


def open_tls(
    host: HostSettings, platform: RootPlatform, *, seed: Secret, now: int
) -> ServerTls | None:
    """The TLS that the host settings ask for; ``None`` where TLS does not end here.

    The first certificate of an own key has no evidence yet: ``look`` brings it.

    Raises:
        SettingsError: ``settings_invalid``: files that cannot be used, or no place in
            memory for an own key.
    """
    settings = host.tls
    if settings.mode is TlsMode.OFF:
        return None
    if settings.mode is TlsMode.FILES:
        return _from_files(Path(settings.certificate), Path(settings.key))
    key = TlsKey.derived(seed)
    folder = MEMORY_FOLDER if host.platform.kind is PlatformKind.GRAMINE else None

    def made(platform: RootPlatform | None, now: int, life: int) -> ssl.SSLContext:
        # As long as the attested key of the epoch may answer, and clocks be apart.
        not_after = (now // life + 2) * life
        pem = key.certificate(platform=platform, now=now, not_after=not_after)
        return _own_context(pem + key.private_pem(), folder)

    return ServerTls(
        key_hash=key.key_hash,
        context=made(None, now, FIRST_SECONDS),
        renew=lambda now, life: made(platform, now, life),
    )


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.set_alpn_protocols(["http/1.1"])
    return context


def _own_context(pem: bytes, folder: Path | None) -> ssl.SSLContext:
    context = _new_context()
    with _in_memory(pem, folder) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _in_memory(pem: bytes, folder: Path | None) -> Iterator[str]:
    """A path to bytes that lie in memory only, since OpenSSL is given keys by path.

    Args:
        pem: what to read there.
        folder: in memory, for where the system has no ``memfd_create``; ``None`` where
            no folder is known to be.

    Raises:
        SettingsError: ``settings_invalid``.
    """
    try:
        descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
        path = f"/proc/self/fd/{descriptor}"
    except OSError as e:
        if folder is None:
            detail = f"host.tls.mode self: no file in memory: {e.strerror}"
            raise SettingsError(Code.SETTINGS_INVALID, detail) from e
        path = str(folder / f"tightseal-tls-{secrets.token_hex(8)}")
        descriptor = _made_at(path)
    try:
        os.write(descriptor, pem)
        yield path
    finally:
        os.pwrite(descriptor, bytes(len(pem)), 0)
        os.close(descriptor)
        if not path.startswith("/proc/"):
            Path(path).unlink()


def _made_at(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as e:
        detail = f"host.tls.mode self: no tmpfs for its key: {path}: {e.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e


def _from_files(certificate: Path, key: Path) -> ServerTls:
    """A key that the host chose, and whatever certificate it has for it."""
    context = _new_context()
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
        with certificate.open("rb") as file:
            pem = file.read(MAX_CERTIFICATE_FILE_BYTES)
        spki = (
            x509.load_pem_x509_certificate(pem)
            .public_key()
            .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        )
    except (OSError, ValueError, TightsealError) as e:
        why = getattr(e, "strerror", None) or str(e)
        detail = f"host.tls: {certificate} with {key}: {why}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    return ServerTls(key_hash=hashlib.sha256(spki).digest(), context=context)


def _no_password() -> str:
    # Else OpenSSL asks the terminal, and a provider without one hangs.
    raise SettingsError(Code.SETTINGS_INVALID, "the key is encrypted")
