# SPDX-License-Identifier: Apache-2.0
"""Linux configfs-tsm: quotes of a TD and reports of an SNP guest.

Linux, Documentation/ABI/testing/configfs-tsm-report. One directory is one request; its
``generation`` counts the writes, so a request that somebody else touched shows itself.
"""

from __future__ import annotations

import errno
import secrets
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final

from tightseal.errors import Code, PlatformError, SettingsError
from tightseal.model.secret import Secret
from tightseal.platform.files import (
    OS_FILES,
    TRANSIENT,
    FileOps,
    Retry,
    Sleep,
    read_whole,
    write_once,
)
from tightseal.platform.selfview import (
    SNP_REPORT_BYTES,
    OwnView,
    read_snp_report,
    read_td_quote,
    refuse_debug,
)

__all__ = ["ConfigfsTsm", "TsmProvider"]

REPORT_DATA_BYTES: Final = 64
MAX_OUTBLOB_BYTES: Final = 32 * 1024
"""The kernel's own bound; TD quotes take 5 to 8 KiB, SNP reports 1184 bytes."""

MAX_AUXBLOB_BYTES: Final = 32 * 1024
MAX_ATTRIBUTE_BYTES: Final = 64
MAX_PRIVLEVEL: Final = 3

_LOCK: Final = threading.Lock()
_NO_PROVIDER: Final = (
    "is this a TD or an SNP guest, is configfs mounted on /sys/kernel/config, and is"
    " tdx_guest or sev_guest loaded (Linux 6.7 or later)?"
)
_HINTS: Final = {
    errno.EACCES: "only root may make evidence",
    errno.EPERM: "only root may make evidence",
    errno.ETIMEDOUT: "is the quote generation service running on the host?",
    errno.EBUSY: "another request is in flight, or the quote service hangs",
    errno.EINVAL: "is privlevel at least privlevel_floor, and is the inblob accepted?",
}


class TsmProvider(StrEnum):
    """Who answers behind configfs-tsm."""

    TDX = "tdx_guest"
    SNP = "sev_guest"


class _MovedError(Exception):
    """Somebody else wrote to our request; it is made anew."""


class ConfigfsTsm:
    """A guest that makes evidence through configfs-tsm.

    Blocks for as long as the kernel does (TDX waits up to 30 s for its quote).

    Args:
        root: the report directory.
        provider: who must answer; ``None`` takes either.
        privlevel: SNP VMPL, 0 to 3; ``None`` leaves the kernel's default.
        files: the file operations.
        sleep: waits between retries.
        retry: bounds of the retries.
        unique: names a request.

    Raises:
        SettingsError: ``settings_invalid``, where ``privlevel`` is out of range.
    """

    def __init__(
        self,
        root: Path = Path("/sys/kernel/config/tsm/report"),
        *,
        provider: TsmProvider | None = None,
        privlevel: int | None = None,
        files: FileOps = OS_FILES,
        sleep: Sleep = time.sleep,
        retry: Retry | None = None,
        unique: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        if privlevel is not None and not 0 <= privlevel <= MAX_PRIVLEVEL:
            detail = f"privlevel {privlevel}, expected 0 to {MAX_PRIVLEVEL}"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        self._root = root
        self._provider = provider
        self._privlevel = privlevel
        self._files = files
        self._sleep = sleep
        self._retry = retry or Retry()
        self._unique = unique

    @property
    def name(self) -> str:
        """``configfs-tsm``."""
        return "configfs-tsm"

    def evidence(self, report_data: bytes) -> bytes:
        """A TD quote, or an SNP report followed by the host's certificate table.

        Args:
            report_data: exactly 64 bytes.

        Raises:
            PlatformError: ``platform_unsupported`` or ``platform_failed``.
        """
        return self._request(report_data)[1]

    def own_measurement(self) -> tuple[str, bytes]:
        """``tdx`` and MRTD, or ``snp`` and the launch measurement, of this guest.

        Raises:
            PlatformError: ``platform_unsupported``, ``platform_failed`` or
                ``provider_debug``.
        """
        view = _view(*self._request(secrets.token_bytes(REPORT_DATA_BYTES)))
        refuse_debug(view)
        return view.tee.value, view.measurement

    def sealing_key(self) -> Secret:
        """Raise: configfs-tsm makes evidence only, and TDX has no sealing key.

        Raises:
            PlatformError: ``sealing_key_unavailable``, always.
        """
        detail = "configfs-tsm has no sealing key: use gramine, or sev-guest for SNP"
        raise PlatformError(Code.SEALING_KEY_UNAVAILABLE, detail)

    def _request(self, report_data: bytes) -> tuple[TsmProvider, bytes]:
        if len(report_data) != REPORT_DATA_BYTES:
            raise _failed(f"report data: {len(report_data)} bytes, expected 64")
        last: Exception | None = None
        for attempt in range(self._retry.attempts):
            if attempt:
                step = self._retry.first_delay * 2 ** (attempt - 1)
                self._sleep(min(step, self._retry.max_delay))
            try:
                with _LOCK:
                    return self._once(report_data)
            except _MovedError as e:
                last = e
            except OSError as e:
                if e.errno not in TRANSIENT and e.errno != errno.EEXIST:
                    raise _explained(e) from e
                last = e
        if isinstance(last, OSError):
            raise _explained(last) from last
        raise _failed(f"the request was touched by another writer: {last}")

    def _once(self, report_data: bytes) -> tuple[TsmProvider, bytes]:
        """One request in a directory of its own, which never stays behind."""
        folder = self._root / f"tightseal-{self._unique()}"
        self._files.mkdir(str(folder))
        try:
            return self._ask(folder, report_data)
        finally:
            self._remove(folder)

    def _remove(self, folder: Path) -> None:
        try:
            self._retry.run(lambda: self._files.rmdir(str(folder)), sleep=self._sleep)
        except OSError as e:
            number = errno.errorcode.get(e.errno or 0, str(e.errno))
            raise _failed(f"{folder} cannot be removed: {number}") from e

    def _ask(self, folder: Path, report_data: bytes) -> tuple[TsmProvider, bytes]:
        provider = self._checked_provider(folder)
        expected = 1
        if self._privlevel is not None:
            if provider is not TsmProvider.SNP:
                detail = f"privlevel is for SNP, the provider is {provider.value}"
                raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
            # ASCII: the kernel parses it with kstrtouint.
            text = str(self._privlevel).encode("ascii")
            write_once(self._files, str(folder / "privlevel"), text)
            expected += 1
        write_once(self._files, str(folder / "inblob"), report_data)
        evidence = self._read(folder / "outblob", MAX_OUTBLOB_BYTES)
        if provider is TsmProvider.SNP:
            if len(evidence) != SNP_REPORT_BYTES:
                raise _failed(f"outblob: {len(evidence)} bytes, expected 1184")
            evidence += self._read(folder / "auxblob", MAX_AUXBLOB_BYTES)
        # Read last: reading again after another's write would have made new evidence.
        generation = self._read(folder / "generation", MAX_ATTRIBUTE_BYTES).strip()
        if generation != str(expected).encode("ascii"):
            detail = f"generation {generation!r}, expected {expected}"
            raise _MovedError(detail)
        if _view(provider, evidence).report_data != report_data:
            raise _failed("the evidence is over other report data")
        return provider, evidence

    def _checked_provider(self, folder: Path) -> TsmProvider:
        text = self._read(folder / "provider", MAX_ATTRIBUTE_BYTES).strip()
        wanted = list(TsmProvider) if self._provider is None else [self._provider]
        for provider in wanted:
            if text == provider.value.encode("ascii"):
                return provider
        detail = f"provider {text!r}, expected {[p.value for p in wanted]}"
        raise PlatformError(Code.PLATFORM_UNSUPPORTED, detail)

    def _read(self, path: Path, max_bytes: int) -> bytes:
        return read_whole(self._files, str(path), max_bytes=max_bytes)


def _view(provider: TsmProvider, evidence: bytes) -> OwnView:
    if provider is TsmProvider.SNP:
        return read_snp_report(evidence).view
    return read_td_quote(evidence)


def _explained(error: OSError) -> PlatformError:
    """A kernel error, with what the operator should look at."""
    number = errno.errorcode.get(error.errno or 0, str(error.errno))
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENOTDIR, errno.ENODEV):
        detail = f"configfs-tsm: {number}: {_NO_PROVIDER}"
        return PlatformError(Code.PLATFORM_UNSUPPORTED, detail)
    hint = _HINTS.get(error.errno or 0, "see the kernel log")
    return _failed(f"configfs-tsm: {number}: {hint}")


def _failed(detail: str) -> PlatformError:
    return PlatformError(Code.PLATFORM_FAILED, detail)
