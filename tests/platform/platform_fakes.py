# SPDX-License-Identifier: Apache-2.0
"""Pseudo-file trees that react to every call as the documented ones do."""

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import NoReturn

SGX_FLAGS = 0x05
MRENCLAVE = bytes(range(32))
MRTD = bytes([0xA7]) * 48
SNP_MEASUREMENT = bytes([0x5A]) * 48


def fail(number: int) -> NoReturn:
    raise OSError(number, os.strerror(number))


class FakeFiles:
    """A tree whose nodes are functions, with faults to order.

    ``faults[(operation, name)]`` is a list of errno values (or None for success), one
    for each call; ``chunk`` bounds what one read returns.
    """

    def __init__(self, *, chunk: int = 1 << 20) -> None:
        self.chunk = chunk
        self.faults: dict[tuple[str, str], list[int | None]] = {}
        self.calls: list[tuple[str, str]] = []
        self.open_fds: dict[int, tuple[str, bytearray | None]] = {}
        self.written: list[tuple[str, bytes]] = []
        self.short_write: set[str] = set()
        self._next_fd = 100

    def read_node(self, path: str) -> bytes:
        raise NotImplementedError

    def write_node(self, path: str, data: bytes) -> None:
        raise NotImplementedError

    def _call(self, operation: str, path: str) -> None:
        name = PurePosixPath(path).name
        self.calls.append((operation, name))
        queue = self.faults.get((operation, name)) or self.faults.get((operation, "*"))
        if queue:
            number = queue.pop(0)
            if number is not None:
                fail(number)

    def open(self, path: str, flags: int) -> int:
        self._call("open", path)
        self._next_fd += 1
        writing = flags & (os.O_WRONLY | os.O_RDWR)
        content = None if writing else bytearray(self.read_node(path))
        self.open_fds[self._next_fd] = (path, content)
        return self._next_fd

    def read(self, fd: int, length: int) -> bytes:
        path, content = self.open_fds[fd]
        self._call("read", path)
        assert content is not None
        part = bytes(content[: min(length, self.chunk)])
        del content[: len(part)]
        return part

    def write(self, fd: int, data: bytes) -> int:
        path, _ = self.open_fds[fd]
        self._call("write", path)
        name = PurePosixPath(path).name
        if name in self.short_write:
            return len(data) - 1
        self.write_node(path, data)
        self.written.append((name, data))
        return len(data)

    def close(self, fd: int) -> None:
        del self.open_fds[fd]

    def mkdir(self, path: str) -> None:
        self._call("mkdir", path)

    def rmdir(self, path: str) -> None:
        self._call("rmdir", path)


class GramineTree(FakeFiles):
    """Gramine's ``/dev/attestation``: Documentation/attestation.rst."""

    def __init__(self, *, chunk: int = 1 << 20) -> None:
        super().__init__(chunk=chunk)
        self.flags = SGX_FLAGS
        self.kind = b"dcap"
        self.user_report_data = bytes(64)
        self.target_info = bytes(512)
        self.keys: dict[str, bytes] = {"_sgx_mrenclave": bytes(range(1, 17))}
        self.quote_padding = 4000
        self.before_quote: Callable[[], None] = lambda: None
        self.before_report: Callable[[], None] = lambda: None
        self.missing: set[str] = set()

    def attributes(self) -> bytes:
        return self.flags.to_bytes(8, "little") + (3).to_bytes(8, "little")

    def my_target_info(self) -> bytes:
        return (MRENCLAVE + self.attributes()).ljust(512, b"\0")

    def body(self) -> bytes:
        body = bytearray(384)
        body[48:64] = self.attributes()
        body[64:96] = MRENCLAVE
        body[320:384] = self.user_report_data
        return bytes(body)

    def report(self) -> bytes:
        self.before_report()
        if self.target_info != self.my_target_info():
            fail(errno.EACCES)
        return self.body() + bytes(48)

    def quote(self) -> bytes:
        self.before_quote()
        header = (3).to_bytes(2, "little") + bytes(46)
        return header + self.body() + bytes(self.quote_padding)

    def read_node(self, path: str) -> bytes:
        name = path.removeprefix("/dev/attestation/")
        if name in self.missing:
            fail(errno.ENOENT)
        nodes: dict[str, Callable[[], bytes]] = {
            "attestation_type": lambda: self.kind,
            "user_report_data": lambda: self.user_report_data,
            "target_info": lambda: self.target_info,
            "my_target_info": self.my_target_info,
            "report": self.report,
            "quote": self.quote,
        }
        if name.startswith("keys/"):
            return self.keys.get(name.removeprefix("keys/")) or (
                b"" if name.removeprefix("keys/") in self.keys else fail(errno.ENOENT)
            )
        if name not in nodes:
            fail(errno.ENOENT)
        return nodes[name]()

    def write_node(self, path: str, data: bytes) -> None:
        name = path.removeprefix("/dev/attestation/")
        if name == "user_report_data":
            self.user_report_data = data[:64].ljust(64, b"\0")
        elif name == "target_info":
            self.target_info = data[:512].ljust(512, b"\0")
        else:
            fail(errno.EACCES)


def td_quote(report_data: bytes, *, version: int = 4, debug: bool = False) -> bytes:
    body = bytearray(584)
    body[120] = 1 if debug else 0
    body[136:184] = MRTD
    body[520:584] = report_data
    header = version.to_bytes(2, "little") + bytes(46)
    if version == 5:
        header += (2).to_bytes(2, "little") + (584).to_bytes(4, "little")
    return header + bytes(body) + bytes(3000)


def snp_report(
    report_data: bytes,
    *,
    vmpl: int = 0,
    debug: bool = False,
    guest_svn: int = 0,
    committed: bytes = bytes([9, 0, 0, 0, 0, 0, 23, 213]),
) -> bytes:
    report = bytearray(1184)
    report[0] = 3
    report[4:8] = guest_svn.to_bytes(4, "little")
    report[8:16] = (0x30000 | (debug << 19)).to_bytes(8, "little")
    report[48:52] = vmpl.to_bytes(4, "little")
    report[80:144] = report_data
    report[144:192] = SNP_MEASUREMENT
    report[480:488] = committed
    return bytes(report)


class _Request:
    def __init__(self) -> None:
        self.generation = 0
        self.inblob: bytes | None = None
        self.privlevel = 0


class TsmTree(FakeFiles):
    """``/sys/kernel/config/tsm/report``: ABI/testing/configfs-tsm-report."""

    root = "/sys/kernel/config/tsm/report"

    def __init__(self, provider: str = "tdx_guest", *, chunk: int = 1 << 20) -> None:
        super().__init__(chunk=chunk)
        self.provider = provider
        self.folders: dict[str, _Request] = {}
        self.certificates = b"certificate table"
        self.floor = 0
        self.intruders = 0
        self.present = True
        self.debug = False
        self.outblob_size: int | None = None
        self.wrong_report_data = False

    def _request(self, path: str) -> _Request:
        folder = str(PurePosixPath(path).parent)
        return self.folders[folder] if folder in self.folders else fail(errno.ENOENT)

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        if not self.present:
            fail(errno.ENXIO)
        if path in self.folders:
            fail(errno.EEXIST)
        self.folders[path] = _Request()

    def rmdir(self, path: str) -> None:
        super().rmdir(path)
        del self.folders[path]

    def read_node(self, path: str) -> bytes:
        request = self._request(path)
        name = PurePosixPath(path).name
        if name == "provider":
            return f"{self.provider}\n".encode()
        if name == "generation":
            return f"{request.generation}\n".encode()
        if name == "auxblob" and self.provider != "sev_guest":
            fail(errno.ENOENT)
        if name not in ("outblob", "auxblob"):
            fail(errno.EACCES)
        if request.inblob is None:
            fail(errno.EINVAL)
        if self.intruders and name == "outblob":
            self.intruders -= 1
            request.inblob = b"intruder".ljust(64, b"\0")
            request.generation += 1
        if name == "auxblob":
            return self.certificates
        data = bytes(64) if self.wrong_report_data else request.inblob
        if self.provider == "tdx_guest":
            out = td_quote(data, debug=self.debug)
        else:
            out = snp_report(data, vmpl=request.privlevel, debug=self.debug)
        return out if self.outblob_size is None else out.ljust(self.outblob_size, b"\0")

    def write_node(self, path: str, data: bytes) -> None:
        request = self._request(path)
        name = PurePosixPath(path).name
        if name == "inblob":
            if len(data) != 64:
                fail(errno.EINVAL)
            request.inblob = data
        elif name == "privlevel" and self.provider == "sev_guest":
            # kstrtouint: ASCII digits and nothing else.
            if not data.isdigit() or not self.floor <= int(data) <= 3:
                fail(errno.EINVAL)
            request.privlevel = int(data)
        else:
            fail(errno.EACCES)
        request.generation += 1


class RtmrTree(FakeFiles):
    """``measurements`` of a TD: ABI/testing/sysfs-devices-virtual-misc-tdx_guest."""

    def __init__(self) -> None:
        super().__init__()
        self.values = {f"rtmr{i}:sha384": bytes(48) for i in range(4)}

    def read_node(self, path: str) -> bytes:
        name = PurePosixPath(path).name
        return self.values[name] if name in self.values else fail(errno.ENOENT)

    def write_node(self, path: str, data: bytes) -> None:
        name = PurePosixPath(path).name
        if len(data) != 48:
            fail(errno.EINVAL)
        self.values[name] = hashlib.sha384(self.values[name] + data).digest()
