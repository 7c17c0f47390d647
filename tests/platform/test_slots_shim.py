# SPDX-License-Identifier: Apache-2.0
"""The native shim: it compiles cleanly, and says so where there is no enclave."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from slot_rig import IDS

from debian_support import MissingError, needed
from tightseal.errors import Code, KeyReleaseError, PlatformError
from tightseal.model.secret import Secret
from tightseal.platform.slots.native_egetkey import (
    BUILD_COMMAND,
    SHIM_SOURCE,
    NativeEgetkey,
)
from tightseal.platform.slots.sgx import SgxSlot

STRICT = ["-Wpedantic", "-Wconversion", "-Wshadow", "-Wstrict-prototypes"]


@pytest.fixture(scope="module")
def compiler(cannot_run: Callable[[str], NoReturn]) -> str:
    try:
        return needed(_compiler, "gcc", "libc6-dev")
    except MissingError as missing:
        cannot_run(str(missing))


def _compiler() -> str | None:
    headers = Path("/usr/include/stdio.h").exists()
    return shutil.which("cc") if headers else None


@pytest.fixture(scope="module")
def shim(compiler: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shim, built by the documented command with every warning on."""
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    command = BUILD_COMMAND.format(library=library, source=SHIM_SOURCE).split()
    subprocess.run([compiler, *STRICT, *command[1:]], check=True, timeout=60)
    return library


def test_the_build_command_stands_in_the_source() -> None:
    head = SHIM_SOURCE.read_text()[:1000].replace("\\\n *", "")
    words = BUILD_COMMAND.format(
        library="libtightseal-egetkey.so", source="egetkey.c"
    ).split()
    assert " ".join(words) in " ".join(head.split())


def test_outside_an_enclave_it_refuses_and_the_process_lives(shim: Path) -> None:
    # In a process of its own: a fault that is not caught must not end the tests.
    program = (
        "import pathlib, sys\n"
        "from tightseal.errors import PlatformError\n"
        "from tightseal.platform.slots.native_egetkey import NativeEgetkey\n"
        "door = NativeEgetkey(pathlib.Path(sys.argv[1]))\n"
        "for ask in (door.own_report, lambda: door.egetkey(bytes(512))):\n"
        "    try:\n"
        "        ask()\n"
        "    except PlatformError as e:\n"
        "        print(e.detail)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(shim)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    expected = "ENCLU faults here: this process is not in an SGX enclave"
    assert ran.stdout.splitlines() == [expected, expected]


def test_a_request_of_another_length_never_reaches_it(shim: Path) -> None:
    with pytest.raises(PlatformError) as caught:
        NativeEgetkey(shim).egetkey(bytes(511))
    assert caught.value.code is Code.PLATFORM_FAILED


def test_without_the_shim_the_slot_says_how_to_build_it(tmp_path: Path) -> None:
    missing = tmp_path / "libtightseal-egetkey.so"
    slot = SgxSlot(NativeEgetkey(missing), allow_signer=False)
    with pytest.raises(KeyReleaseError, match="build it inside the image") as caught:
        slot.create(**IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE
    assert str(SHIM_SOURCE) in caught.value.detail


def test_another_library_is_not_the_shim(compiler: str, tmp_path: Path) -> None:
    source, library = tmp_path / "other.c", tmp_path / "other.so"
    source.write_text("int something_else(void) { return 0; }\n")
    build = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(build, check=True, timeout=60)
    with pytest.raises(PlatformError, match="no shim at"):
        NativeEgetkey(library).own_report()


def test_a_shim_of_another_interface(compiler: str, tmp_path: Path) -> None:
    source, library = tmp_path / "next.c", tmp_path / "next.so"
    text = SHIM_SOURCE.read_text()
    newer = text.replace("INTERFACE_VERSION 1u", "INTERFACE_VERSION 2u")
    assert newer != text
    source.write_text(newer)
    build = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(build, check=True, timeout=60)
    with pytest.raises(PlatformError, match="interface 2, expected 1"):
        NativeEgetkey(library).own_report()


STAND_IN = """
#include <stdint.h>
#include <string.h>
uint32_t tightseal_egetkey_version(void) { return 1; }
uint32_t tightseal_ereport(const uint8_t *target, uint8_t *report)
{
    for (int i = 0; i < 512; i++)
        if (target[i])
            return 0x80000001u;
    memset(report, 0x5a, 432);
    return 0;
}
uint32_t tightseal_egetkey(const uint8_t *request, uint8_t *key)
{
    memcpy(key, request + 40, 16);
    return request[0];
}
"""


def test_what_passes_between_python_and_c(compiler: str, tmp_path: Path) -> None:
    source, library = tmp_path / "stand_in.c", tmp_path / "stand_in.so"
    source.write_text(STAND_IN)
    build = [compiler, "-shared", "-fPIC", "-o", str(library), str(source)]
    subprocess.run(build, check=True, timeout=60)
    door = NativeEgetkey(library)
    assert door.own_report() == b"\x5a" * 432
    request = bytearray(512)
    request[40:56] = bytes(range(16))
    assert door.egetkey(bytes(request)) == (0, Secret(bytes(range(16))))
    request[0] = 0x20
    status, _ = door.egetkey(bytes(request))
    assert status == 0x20
