# SPDX-License-Identifier: Apache-2.0
"""TPMs to test with: swtpm in a temporary folder, and the simulated world's own."""

import fcntl
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from tightseal.platform.slots.tpm_session import MAX_TRIES
from tightseal.platform.slots.tpm_wire import MAX_MESSAGE_BYTES, Exchange, OpenTpm
from tightseal_sim.tpm import SimTpm

INSTALL_SECONDS = 300
APT_PAUSE_SECONDS = 10
START_SECONDS = 30
ANSWER_SECONDS = 30
PCR_EXTEND, CLEAR, CHANGE_AUTH = 0x182, 0x126, 0x129
PLATFORM, OWNER = 0x4000000C, 0x40000001
EMPTY_PASSWORD = bytes.fromhex("40000009 0000 01 0000")


class MissingError(Exception):
    """There is no swtpm here, and why."""


class Tpm(Protocol):
    """A TPM, and what is done to it."""

    open: OpenTpm

    def extend(self, pcr: int, digest: bytes) -> None: ...
    def clear(self) -> None: ...
    def reboot(self) -> None: ...


class Swtpm:
    """One swtpm; its state folder is its chip."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            *(self.program, "socket", "--tpm2", "--flags"),
            "not-need-init,startup-clear",
            *("--tpmstate", f"dir={self.folder}"),
            *("--server", f"type=unixio,path={self.folder / 'server'}"),
            *("--ctrl", f"type=unixio,path={self.folder / 'control'}"),
        ]
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + START_SECONDS
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > end:
                message = f"swtpm does not start: {self.process.poll()}"
                raise MissingError(message)
            time.sleep(0.01)

    def _listens(self) -> bool:
        # The socket is there before it listens.
        try:
            with self.open():
                return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        for name in ("server", "control"):
            (self.folder / name).unlink(missing_ok=True)

    @contextmanager
    def open(self) -> Iterator[Exchange]:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_SECONDS)
            connection.connect(str(self.folder / "server"))

            def exchange(command: bytes) -> bytes:
                connection.sendall(command)
                return connection.recv(MAX_MESSAGE_BYTES)

            yield exchange

    def reboot(self) -> None:
        self.stop()
        self.start()

    def extend(self, pcr: int, digest: bytes) -> None:
        self._with_password(PCR_EXTEND, pcr, struct.pack(">IH", 1, 0x000B) + digest)

    def clear(self) -> None:
        self._with_password(CLEAR, PLATFORM, b"")

    def set_owner_auth(self, value: bytes) -> None:
        self._with_password(CHANGE_AUTH, OWNER, struct.pack(">H", len(value)) + value)

    def _with_password(self, code: int, handle: int, parameters: bytes) -> None:
        area = struct.pack(">I", len(EMPTY_PASSWORD)) + EMPTY_PASSWORD
        body = struct.pack(">I", handle) + area + parameters
        command = struct.pack(">HII", 0x8002, 10 + len(body), code) + body
        with self.open() as exchange:
            for _ in range(MAX_TRIES):
                rc = int.from_bytes(exchange(command)[6:10], "big")
                if rc != 0x922:
                    break
        assert rc == 0, hex(rc)


class Tpms:
    """TPMs of one kind, each another chip."""

    def __init__(self, program: str | None, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self._made: list[Swtpm] = []
        self._count = 0

    def new(self) -> Tpm:
        self._count += 1
        if self._program is None:
            return SimTpm(self._count.to_bytes(32, "big"))
        folder = self._folder / str(self._count)
        folder.mkdir()
        made = Swtpm(self._program, folder)
        self._made.append(made)
        made.start()
        return made

    def stop(self) -> None:
        for made in self._made:
            made.stop()


def swtpm() -> str:
    """The program, installing it where that is possible."""
    found = shutil.which("swtpm")
    if found is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            message = "no swtpm: install Debian's 'swtpm'"
            raise MissingError(message)
        _install()
        found = shutil.which("swtpm")
    if found is None:
        message = "apt-get installed no swtpm"
        raise MissingError(message)
    return found


def _install() -> None:
    """One worker installs; another may be at apt-get for another test."""
    sys.stderr.write(f"installing Debian's swtpm, at most {INSTALL_SECONDS} s\n")
    with (Path(tempfile.gettempdir()) / "tightseal-swtpm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if shutil.which("swtpm") is not None:
            return
        end = time.monotonic() + INSTALL_SECONDS
        for arguments in (
            ("update",),
            ("install", "--yes", "--no-install-recommends", "swtpm"),
        ):
            while not _apt(arguments):
                if time.monotonic() > end:
                    message = f"apt-get {arguments[0]} failed"
                    raise MissingError(message)
                time.sleep(APT_PAUSE_SECONDS)


def _apt(arguments: tuple[str, ...]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = f"DPkg::Lock::Timeout={APT_PAUSE_SECONDS}"
    try:
        ran = subprocess.run(
            ["apt-get", "-q", "-o", wait, *arguments],
            check=False,
            env=environment,
            stdout=subprocess.DEVNULL,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as e:
        message = f"apt-get {arguments[0]} failed: {e}"
        raise MissingError(message) from e
    return ran.returncode == 0
