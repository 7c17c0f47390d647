# SPDX-License-Identifier: Apache-2.0
"""Run-time measurement registers of a TD through sysfs (Linux 6.16).

Linux, Documentation/ABI/testing/sysfs-devices-virtual-misc-tdx_guest: a write of
exactly 48 bytes at offset 0 extends the register, a read gives its value.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from tightseal.errors import Code, PlatformError
from tightseal.platform.files import OS_FILES, FileOps, read_whole, write_once

__all__ = ["extend_rtmr", "read_rtmr"]

DIGEST_BYTES: Final = 48
RTMR_COUNT: Final = 4
MEASUREMENTS: Final = Path("/sys/devices/virtual/misc/tdx_guest/measurements")


def extend_rtmr(
    index: int,
    digest: bytes,
    *,
    root: Path = MEASUREMENTS,
    files: FileOps = OS_FILES,
) -> None:
    """Extend RTMR ``index`` with a SHA-384 digest.

    Never repeated after an error: whether the register moved is then unknown, and a
    second extension would change what the workload is. Read the register to find out.

    Args:
        index: 0 to 3; guests use 2 and 3.
        digest: exactly 48 bytes.
        root: the measurements directory.
        files: the file operations.

    Raises:
        PlatformError: ``platform_failed`` or ``platform_unsupported``.
    """
    if len(digest) != DIGEST_BYTES:
        detail = f"RTMR digest: {len(digest)} bytes, expected {DIGEST_BYTES}"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    path = _path(root, index)
    try:
        write_once(files, path, digest)
    except OSError as e:
        raise _explained(path, e) from e


def read_rtmr(
    index: int, *, root: Path = MEASUREMENTS, files: FileOps = OS_FILES
) -> bytes:
    """The value of RTMR ``index``, 48 bytes.

    Raises:
        PlatformError: ``platform_failed`` or ``platform_unsupported``.
    """
    path = _path(root, index)
    try:
        value = read_whole(files, path, max_bytes=DIGEST_BYTES)
    except OSError as e:
        raise _explained(path, e) from e
    if len(value) != DIGEST_BYTES:
        detail = f"{path}: {len(value)} bytes, expected {DIGEST_BYTES}"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    return value


def _path(root: Path, index: int) -> str:
    if not 0 <= index < RTMR_COUNT:
        detail = f"RTMR {index}, expected 0 to {RTMR_COUNT - 1}"
        raise PlatformError(Code.PLATFORM_FAILED, detail)
    return str(root / f"rtmr{index}:sha384")


def _explained(path: str, error: OSError) -> PlatformError:
    number = errno.errorcode.get(error.errno or 0, str(error.errno))
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        detail = f"{path}: {number}: needs a TD with Linux 6.16 or later"
        return PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
    return PlatformError(Code.PLATFORM_FAILED, f"{path}: {number}")
