# SPDX-License-Identifier: Apache-2.0
"""Gramine on SGX: quotes, our own report and the sealing key from ``/dev/attestation``.

Gramine keeps one report data and one target info for the whole process, so every
exchange with the tree holds one lock, and what comes back is compared with what was
asked. Gramine reports most failures as EACCES; the details name the likely causes.
"""

from __future__ import annotations

import errno
import threading
import time
from pathlib import Path
from typing import Final

from tightseal.errors import Code, PlatformError
from tightseal.model.secret import Secret
from tightseal.platform.files import (
    OS_FILES,
    FileOps,
    Retry,
    Sleep,
    read_whole,
    write_once,
)
from tightseal.platform.selfview import (
    SGX_REPORT_BYTES,
    SGX_TARGET_INFO_BYTES,
    OwnView,
    read_sgx_report,
    refuse_debug,
)
from tightseal.platform.slots.enclave import OwnEnclave, read_own_enclave

__all__ = ["GraminePlatform"]

REPORT_DATA_BYTES: Final = 64
SEALING_KEY_BYTES: Final = 16
MAX_QUOTE_BYTES: Final = 16 * 1024
"""Twice Gramine's own buffer of 8192 bytes."""

MIN_QUOTE_BYTES: Final = 48 + 384
"""Header and SGX report body: what is looked at here."""

MAX_TYPE_BYTES: Final = 64
SEALING_KEY_FILE: Final = "keys/_sgx_mrenclave"
SIGNER_KEY_FILE: Final = "keys/_sgx_mrsigner"

_QUOTE_REPORT_DATA: Final = slice(48 + 320, 48 + 384)
_TREE_LOCK: Final = threading.Lock()

_HINTS: Final = {
    "quote": "is aesmd running on the host, is the platform registered and its PCK"
    " certificate in the PCCS, is /dev/sgx_provision open to aesmd",
    SEALING_KEY_FILE: "is the manifest signed with a sealing key policy",
    SIGNER_KEY_FILE: "is the manifest signed with a sealing key policy",
}
_TREE_MISSING: Final = (
    "is this Gramine on SGX (gramine-sgx, not gramine-direct), with"
    ' sgx.remote_attestation = "dcap" in the manifest'
)


class GraminePlatform:
    """An SGX enclave under Gramine: a sidecar's root, and what its slots are made with.

    Opening it touches nothing; the first use checks that the attestation type is
    ``dcap`` and that our own report has no debug bit.

    Args:
        root: Gramine's attestation tree. A host setting: whoever points it at a folder
            of their own gets evidence that no client accepts, since the attested key
            counts only with a verified quote over it.
        files: the file operations.
        sleep: waits between retries.
        retry: bounds of the retries.
    """

    def __init__(
        self,
        root: Path = Path("/dev/attestation"),
        *,
        files: FileOps = OS_FILES,
        sleep: Sleep = time.sleep,
        retry: Retry | None = None,
    ) -> None:
        self._root = root
        self._files = files
        self._sleep = sleep
        self._retry = retry or Retry()
        self._own: OwnView | None = None

    @property
    def name(self) -> str:
        """``gramine``."""
        return "gramine"

    def start(self) -> None:
        """Check that this is a production enclave that can make quotes.

        Raises:
            PlatformError: ``platform_unsupported``, ``platform_failed`` or
                ``provider_debug``.
        """
        with _TREE_LOCK:
            self._start()

    def evidence(self, report_data: bytes) -> bytes:
        """A DCAP quote over exactly 64 bytes of report data.

        Raises:
            PlatformError: ``platform_failed``, ``platform_unsupported`` or
                ``provider_debug``.
        """
        if len(report_data) != REPORT_DATA_BYTES:
            detail = f"report data: {len(report_data)} bytes, expected 64"
            raise PlatformError(Code.PLATFORM_FAILED, detail)
        with _TREE_LOCK:
            self._start()
            self._write("user_report_data", report_data)
            quote = self._read("quote", MAX_QUOTE_BYTES)
        if len(quote) < MIN_QUOTE_BYTES:
            raise _failed(f"quote of {len(quote)} bytes: {_HINTS['quote']}?")
        if quote[_QUOTE_REPORT_DATA] != report_data:
            raise _failed("the quote is over other report data: a second writer?")
        return quote

    def own_measurement(self) -> tuple[str, bytes]:
        """``sgx`` and our MRENCLAVE, from a local report over ourselves.

        Raises:
            PlatformError: ``platform_failed``, ``platform_unsupported`` or
                ``provider_debug``.
        """
        with _TREE_LOCK:
            own = self._start()
        return own.tee.value, own.measurement

    def sealing_key(self) -> Secret:
        """The 16-byte EGETKEY(SEAL, MRENCLAVE) key with the manifest's masks.

        It dies with a microcode update or another build of the enclave: Gramine asks
        for the current SVNs and has no way to ask for older ones.

        Raises:
            PlatformError: ``sealing_key_unavailable``, ``platform_failed``,
                ``platform_unsupported`` or ``provider_debug``.
        """
        return self._key(SEALING_KEY_FILE)

    def signer_key(self) -> Secret:
        """The key that every enclave of our signer and product id can have, 16 bytes.

        It dies with a microcode update too.

        Raises:
            PlatformError: as :meth:`sealing_key`.
        """
        return self._key(SIGNER_KEY_FILE)

    def own_enclave(self) -> OwnEnclave:
        """What this enclave is now, by a local report.

        Raises:
            PlatformError: ``platform_failed``, ``platform_unsupported`` or
                ``provider_debug``.
        """
        with _TREE_LOCK:
            self._start()
            # Whatever report data was set last will do: none of it is read here.
            return read_own_enclave(self._read("report", SGX_REPORT_BYTES))

    def _key(self, name: str) -> Secret:
        with _TREE_LOCK:
            self._start()
            try:
                # One byte more than the key, so that a longer file shows itself.
                key = self._read(name, SEALING_KEY_BYTES + 1)
            except PlatformError as e:
                if e.code is Code.PLATFORM_UNSUPPORTED:
                    raise _no_key(e.detail) from e
                raise
        if not key:
            raise _no_key(f"{name} is empty: Gramine has not set it")
        if len(key) != SEALING_KEY_BYTES:
            raise _failed(f"{name}: {len(key)} bytes, expected 16")
        if not any(key):
            raise _failed(f"{name}: all bytes are zero")
        return Secret(key)

    def _start(self) -> OwnView:
        """The checks of the first use; the caller holds the lock."""
        if self._own is not None:
            return self._own
        kind = self._read("attestation_type", MAX_TYPE_BYTES).strip()
        if kind != b"dcap":
            detail = f"attestation_type is {kind!r}, expected b'dcap': {_TREE_MISSING}?"
            raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
        target = self._read("my_target_info", SGX_TARGET_INFO_BYTES)
        if len(target) != SGX_TARGET_INFO_BYTES:
            raise _failed(f"my_target_info: {len(target)} bytes, expected 512")
        # The report is made from both when it is opened, so both come first.
        self._write("target_info", target)
        self._write("user_report_data", bytes(REPORT_DATA_BYTES))
        own = read_sgx_report(self._read("report", SGX_REPORT_BYTES), target)
        if own.report_data != bytes(REPORT_DATA_BYTES):
            raise _failed("the report is over other report data: a second writer?")
        refuse_debug(own)
        self._own = own
        return own

    def _read(self, name: str, max_bytes: int) -> bytes:
        path = str(self._root / name)

        def step() -> bytes:
            return read_whole(self._files, path, max_bytes=max_bytes)

        try:
            return self._retry.run(step, sleep=self._sleep)
        except OSError as e:
            raise _explained(name, e) from e

    def _write(self, name: str, data: bytes) -> None:
        path = str(self._root / name)

        def step() -> None:
            # Setting a value twice does no harm here, unlike extending a register.
            write_once(self._files, path, data)

        try:
            self._retry.run(step, sleep=self._sleep)
        except OSError as e:
            raise _explained(name, e) from e


def _explained(name: str, error: OSError) -> PlatformError:
    """An error of the tree, with what the operator should look at."""
    number = errno.errorcode.get(error.errno or 0, str(error.errno))
    hint = _HINTS.get(name, _TREE_MISSING)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        detail = f"{name}: {number}: {_TREE_MISSING}?"
        return PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
    return _failed(f"{name}: {number}: {hint}?")


def _failed(detail: str) -> PlatformError:
    return PlatformError(Code.PLATFORM_FAILED, detail)


def _no_key(detail: str) -> PlatformError:
    return PlatformError(Code.SEALING_KEY_UNAVAILABLE, detail)
