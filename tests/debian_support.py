# SPDX-License-Identifier: Apache-2.0
"""What a test needs of Debian, installed by its own set-up where that is possible."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

INSTALL_SECONDS = 300
PAUSE_SECONDS = 10
_LOCK = Path(tempfile.gettempdir()) / "tightseal-apt.lock"

T = TypeVar("T")


class MissingError(Exception):
    """It is not here, and why."""


def needed(find: Callable[[], T | None], *packages: str) -> T:
    """What ``find`` gives, after installing packages where it gives nothing.

    One worker installs at a time; whoever waited looks again first.
    """
    found = find()
    if found is not None:
        return found
    named = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        message = f"install Debian's {named}"
        raise MissingError(message)
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = find()
        if found is None:
            sys.stderr.write(f"installing Debian's {named}\n")
            _install(packages)
            found = find()
    if found is None:
        message = f"apt-get installed no {named}"
        raise MissingError(message)
    return found


def _install(packages: tuple[str, ...]) -> None:
    end = time.monotonic() + INSTALL_SECONDS
    install = ("install", "--yes", "--no-install-recommends", *packages)
    for arguments in (("update",), install):
        while not _apt(arguments):
            if time.monotonic() > end:
                message = f"apt-get {' '.join(arguments)} failed"
                raise MissingError(message)
            time.sleep(PAUSE_SECONDS)


def _apt(arguments: tuple[str, ...]) -> bool:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    wait = f"DPkg::Lock::Timeout={PAUSE_SECONDS}"
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
