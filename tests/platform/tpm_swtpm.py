# SPDX-License-Identifier: Apache-2.0
"""TPMs to test with: swtpm in a temporary folder, and the simulated world's own."""

import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from debian_support import MissingError, needed
from tightseal.platform.slots.tpm_session import MAX_TRIES
from tightseal.platform.slots.tpm_wire import MAX_MESSAGE_BYTES, Exchange, OpenTpm
from tightseal_sim.tpm import SimTpm

START_SECONDS = 30
ANSWER_SECONDS = 30
PCR_EXTEND, CLEAR, CHANGE_AUTH = 0x182, 0x126, 0x129
PLATFORM, OWNER = 0x4000000C, 0x40000001
EMPTY_PASSWORD = bytes.fromhex("40000009 0000 01 0000")


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
    return needed(lambda: shutil.which("swtpm"), "swtpm")
