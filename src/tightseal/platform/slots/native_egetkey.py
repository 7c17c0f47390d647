# SPDX-License-Identifier: Apache-2.0
"""The native shim that executes ENCLU, through ctypes.

Source: ``native/egetkey.c``. It is built inside the enclave's image and is a trusted
file there, so that it is measured with the rest.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

from tightseal.errors import Code, PlatformError
from tightseal.model.secret import Secret
from tightseal.platform.selfview import SGX_REPORT_BYTES, SGX_TARGET_INFO_BYTES
from tightseal.platform.slots.keyrequest import KEY_REQUEST_BYTES

__all__ = ["BUILD_COMMAND", "DEFAULT_SHIM", "SHIM_SOURCE", "NativeEgetkey"]

SHIM_SOURCE: Final = Path(__file__).parent / "native" / "egetkey.c"
"""The shim's source, installed with the package."""

DEFAULT_SHIM: Final = Path("/usr/local/lib/libtightseal-egetkey.so")
"""Where the image of the enclave keeps the built shim."""

BUILD_COMMAND: Final = (
    "cc -O2 -std=c11 -Wall -Wextra -Werror -fPIC -shared -o {library} {source}"
)
"""How it is built; also in the head of the source and in docs/slots.md."""

INTERFACE_VERSION: Final = 1
STATUS_NO_ENCLAVE: Final = 0x80000001
_KEY_BYTES: Final = 16


class NativeEgetkey:
    """EREPORT and EGETKEY of the enclave that this process runs in.

    The file is not opened before the first use.

    Args:
        library: the built shim. Whoever can put another file there is inside the
            measurement already, or the manifest does not list it and Gramine refuses.
    """

    def __init__(self, library: Path = DEFAULT_SHIM) -> None:
        self._path = library
        self._loaded: ctypes.CDLL | None = None

    def own_report(self) -> bytes:
        """A REPORT of this enclave, 432 bytes, for nobody: its target is all zero.

        Raises:
            PlatformError: ``platform_unsupported``, without shim or enclave.
        """
        shim = self._shim()
        report = ctypes.create_string_buffer(SGX_REPORT_BYTES)
        status = shim.tightseal_ereport(bytes(SGX_TARGET_INFO_BYTES), report)
        self._refuse_outside(status)
        return report.raw

    def egetkey(self, request: bytes) -> tuple[int, Secret]:
        """EGETKEY: its status, and 16 bytes that mean nothing unless that is zero.

        Args:
            request: KEYREQUEST, 512 bytes.

        Raises:
            PlatformError: ``platform_unsupported``, without shim or enclave;
                ``platform_failed`` for another length.
        """
        if len(request) != KEY_REQUEST_BYTES:
            detail = f"KEYREQUEST of {len(request)} bytes, expected {KEY_REQUEST_BYTES}"
            raise PlatformError(Code.PLATFORM_FAILED, detail)
        shim = self._shim()
        key = ctypes.create_string_buffer(_KEY_BYTES)
        try:
            status = shim.tightseal_egetkey(request, key)
            self._refuse_outside(status)
            return status, Secret(key.raw)
        finally:
            ctypes.memset(key, 0, _KEY_BYTES)

    def _refuse_outside(self, status: int) -> None:
        if status == STATUS_NO_ENCLAVE:
            detail = "ENCLU faults here: this process is not in an SGX enclave"
            raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)

    def _shim(self) -> ctypes.CDLL:
        if self._loaded is not None:
            return self._loaded
        try:
            shim = ctypes.CDLL(str(self._path))
            for name in ("egetkey_version", "ereport", "egetkey"):
                getattr(shim, f"tightseal_{name}").restype = ctypes.c_uint32
            version = shim.tightseal_egetkey_version()
        except (OSError, AttributeError) as e:
            build = BUILD_COMMAND.format(library=self._path, source=SHIM_SOURCE)
            detail = f"no shim at {self._path}: build it inside the image with: {build}"
            raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail) from e
        if version != INTERFACE_VERSION:
            detail = f"shim {self._path}: interface {version}, expected 1: build anew"
            raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
        shim.tightseal_ereport.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        shim.tightseal_egetkey.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
        self._loaded = shim
        return shim
