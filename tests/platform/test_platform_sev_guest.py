# SPDX-License-Identifier: Apache-2.0
"""SNP_GET_DERIVED_KEY, byte for byte, against a firmware that never forgives."""

import ctypes
import errno
import os
import struct
import threading
from typing import Any

import pytest
from platform_fakes import SNP_MEASUREMENT, FakeFiles, snp_report

from tightseal.errors import Code, PlatformError, SettingsError
from tightseal.model.secret import Secret
from tightseal.platform.sev_guest import (
    DerivedKey,
    GuestField,
    RootKey,
    SevGuestPlatform,
)

KEY = bytes(range(1, 33))


class Device(FakeFiles):
    def read_node(self, path: str) -> bytes:
        raise AssertionError(path)


class Reports:
    """An evidence source whose reports have chosen fields."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        self.count = 0

    def evidence(self, report_data: bytes) -> bytes:
        self.count += 1
        return snp_report(report_data, **self.fields) + b"table"  # type: ignore[arg-type]


class Firmware:
    """Records the one request and answers it."""

    def __init__(
        self,
        *,
        error: int | None = None,
        status: int = 0,
        exit_info: int = 0,
        key: bytes = KEY,
    ) -> None:
        self.error = error
        self.status = status
        self.exit_info = exit_info
        self.key = key
        self.requests: list[tuple[int, int, bytes]] = []
        self.response_at = 0

    def __call__(self, _fd: int, number: int, argument: bytearray) -> int:
        version, request_at, self.response_at, zero = struct.unpack("<B7xQQQ", argument)
        assert len(argument) == 32
        assert zero == 0
        assert bytes(argument[1:8]) == bytes(7)
        request = ctypes.string_at(request_at, 32)
        self.requests.append((number, version, request))
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        argument[24:32] = self.exit_info.to_bytes(8, "little")
        answer = self.status.to_bytes(4, "little") + bytes(28) + self.key
        ctypes.memmove(self.response_at, answer, 64)
        return 0


def guest(
    firmware: Firmware,
    key: DerivedKey | None = None,
    files: FakeFiles | None = None,
    **report: Any,
) -> SevGuestPlatform:
    return SevGuestPlatform(
        Reports(**report), key=key, ioctl=firmware, files=files or Device()
    )


REQUESTS = [
    ("default", DerivedKey(), "00000000 00000000 0900000000000000 00000000 00000000"),
    (
        "vmpl_and_fields",
        DerivedKey(fields=GuestField(0b1111), vmpl=2, root_key=RootKey.VMRK),
        "01000000 00000000 0f00000000000000 02000000 00000000",
    ),
    (
        "svn",
        DerivedKey(fields=GuestField(0b011001), guest_svn=0x0102),
        "00000000 00000000 1900000000000000 00000000 02010000",
    ),
]


@pytest.mark.parametrize(
    ("key", "expected"), [c[1:] for c in REQUESTS], ids=[c[0] for c in REQUESTS]
)
def test_request_bytes(key: DerivedKey, expected: str) -> None:
    firmware = Firmware()
    platform = guest(firmware, key, vmpl=key.vmpl, guest_svn=0x0102)
    assert platform.sealing_key().reveal() == KEY
    number, version, request = firmware.requests[0]
    assert number == 0xC0205301
    assert version == 1
    assert request == bytes.fromhex(expected) + bytes(8)


def test_tcb_version_bytes() -> None:
    tcb = bytes([4, 0, 0, 0, 0, 0, 20, 200])
    key = DerivedKey(fields=GuestField(0b101001), tcb_version=tcb)
    assert key.request()[24:] == tcb
    firmware = Firmware()
    guest(firmware, key).sealing_key()
    assert firmware.requests[0][2][24:] == tcb


def test_asked_once_and_given_as_copies() -> None:
    firmware = Firmware()
    platform = guest(firmware)
    first = platform.sealing_key()
    first.wipe()
    assert platform.sealing_key() == Secret(KEY)
    assert len(firmware.requests) == 1


def test_threads_ask_once_together() -> None:
    firmware = Firmware()
    platform = guest(firmware)
    keys: list[Secret] = []
    threads = [
        threading.Thread(target=lambda: keys.append(platform.sealing_key()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert keys == [Secret(KEY)] * 8
    assert len(firmware.requests) == 1


FAILURES = [
    ("wiped_vmpck", Firmware(error=errno.ENOTTY), "reboot"),
    ("io_error", Firmware(error=errno.EIO), "EIO"),
    ("interrupted", Firmware(error=errno.EINTR), "EINTR"),
    ("firmware_status", Firmware(status=0x16), "0x16"),
    ("firmware_error", Firmware(exit_info=0x16), "exitinfo2 0x16"),
    ("vmm_error", Firmware(exit_info=2 << 32), "exitinfo2 0x200000000"),
    ("zero_key", Firmware(key=bytes(32)), "zero"),
]


@pytest.mark.parametrize(
    ("firmware", "words"), [c[1:] for c in FAILURES], ids=[c[0] for c in FAILURES]
)
def test_after_a_failure_nothing_is_sent_again(firmware: Firmware, words: str) -> None:
    files = Device()
    platform = guest(firmware, files=files)
    with pytest.raises(PlatformError, match=words) as caught:
        platform.sealing_key()
    assert caught.value.code is Code.PLATFORM_FAILED
    firmware.error = None
    with pytest.raises(PlatformError, match="not asked again"):
        platform.sealing_key()
    assert len(firmware.requests) == 1
    assert not files.open_fds


def test_a_device_that_does_not_open_may_be_tried_again() -> None:
    files = Device()
    files.faults[("open", "sev-guest")] = [errno.ENOENT, errno.EACCES]
    firmware = Firmware()
    platform = guest(firmware, files=files)
    with pytest.raises(PlatformError) as caught:
        platform.sealing_key()
    assert caught.value.code is Code.PLATFORM_UNSUPPORTED
    with pytest.raises(PlatformError, match="root"):
        platform.sealing_key()
    assert platform.sealing_key().reveal() == KEY


BEYOND = [
    ("vmpl", DerivedKey(vmpl=1), {"vmpl": 0}, "VMPL 0"),
    (
        "guest_svn",
        DerivedKey(fields=GuestField(0b011001), guest_svn=8),
        {"guest_svn": 7},
        "launched with 7",
    ),
    (
        "tcb",
        DerivedKey(fields=GuestField(0b101001), tcb_version=bytes([10] + [0] * 7)),
        {"committed": bytes([9] * 8)},
        "committed TCB",
    ),
]


@pytest.mark.parametrize(
    ("key", "report", "words"), [c[1:] for c in BEYOND], ids=[c[0] for c in BEYOND]
)
def test_what_the_firmware_would_refuse_is_never_sent(
    key: DerivedKey, report: dict[str, Any], words: str
) -> None:
    firmware = Firmware()
    with pytest.raises(PlatformError, match=words):
        guest(firmware, key, **report).sealing_key()
    assert firmware.requests == []


def test_a_debug_guest_gets_no_key() -> None:
    firmware = Firmware()
    with pytest.raises(PlatformError) as caught:
        guest(firmware, debug=True).sealing_key()
    assert caught.value.code is Code.PROVIDER_DEBUG
    assert firmware.requests == []


def test_own_measurement_and_evidence_come_from_reports() -> None:
    platform = guest(Firmware())
    assert platform.own_measurement() == ("snp", SNP_MEASUREMENT)
    assert platform.evidence(bytes(64)).endswith(b"table")


def _settings(**values: object) -> DerivedKey:
    return DerivedKey(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"fields": GuestField(0)},
        {"fields": GuestField.MEASUREMENT},
        {"fields": GuestField.POLICY},
        {"fields": GuestField.IMAGE_ID | GuestField.FAMILY_ID},
        {"fields": 0b1001001},
        {"vmpl": 4},
        {"vmpl": -1},
        {"guest_svn": 1},
        {"tcb_version": bytes([1] * 8)},
        {"tcb_version": bytes(7)},
        {"fields": GuestField(0b011001), "guest_svn": 1 << 32},
    ],
    ids=str,
)
def test_settings_refused(values: dict[str, object]) -> None:
    with pytest.raises(SettingsError):
        _settings(**values)
