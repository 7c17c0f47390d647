# SPDX-License-Identifier: Apache-2.0
"""The way in by options, and the quoting gate of real hardware."""

import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tightseal.errors import Code, PlatformError, SettingsError
from tightseal_sim.door import open_guest, open_sim
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.td import TdImage
from tightseal_sim.latency import QuoteGate
from tightseal_sim.world import World


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    World.create(tmp_path, seed=b"\x03" * 32)
    return tmp_path


def test_provider_enclave_by_default(folder: Path) -> None:
    platform = open_sim({"world": str(folder)})
    image = EnclaveImage("tightseal-provider")
    same = World.open(folder).intel.platform("host").load_enclave(image)
    assert platform.name == "sim"
    assert platform.own_measurement() == ("sgx", image.mr_enclave)
    assert platform.sealing_key() == same.sealing_key()
    assert platform.evidence(bytes(64)) == same.evidence(bytes(64))


def test_enclave_options(folder: Path) -> None:
    options = {"world": str(folder), "platform": "p", "enclave": "e", "ca": "processor"}
    first = open_sim(options).sealing_key()
    second = open_sim({**options, "isv_svn": "2"}).sealing_key()
    assert first != second
    with pytest.raises(PlatformError) as refused:
        open_sim({**options, "debug": "true"}).own_measurement()
    assert refused.value.code is Code.PROVIDER_DEBUG


def test_guest_by_options(folder: Path, tmp_path: Path) -> None:
    kernel = tmp_path / "kernel"
    kernel.write_bytes(b"a kernel\0")
    options: dict[str, Any] = {
        "world": str(folder),
        "tee": "tdx",
        "kernel": f"@{kernel}",
        "cmdline": "quiet",
        "mr_config_id": "01" * 48,
        "events": "app-id=1111,instance-id=",
        "quote": "v5-td15",
    }
    guest = open_guest(options)
    expected = TdImage(
        kernel=b"a kernel\0",
        cmdline="quiet",
        mr_config_id=b"\1" * 48,
        boot_events=(("app-id", b"\x11\x11"), ("instance-id", b"")),
    )
    assert guest.image == expected
    assert open_sim(options).own_measurement() == ("tdx", guest.measurements["mrtd"])
    assert guest.evidence(bytes(64))[:2] == b"\5\0"


@pytest.mark.parametrize(
    "wrong",
    [
        {"world": ""},
        {"world": "/nonexistent/world"},
        {"word": "x"},
        {"tee": "snp2"},
        {"ca": "cloud"},
        {"debug": "maybe"},
        {"isv_svn": "70000"},
        {"isv_svn": "one"},
        {"isv_svn": "1.5"},
        {"quote_latency_ms": "-1"},
        {"quote_latency_ms": "nan"},
        {"platform": 3},
        {"kernel": "x"},
        {"tee": "tdx", "quote": "v6"},
        {"tee": "tdx", "mr_owner": "0"},
        {"tee": "tdx", "mr_owner": "00"},
        {"tee": "tdx", "kernel": "@/nonexistent/kernel"},
        {"tee": "tdx", "events": "a=zz"},
        {"tee": "tdx", "enclave": "x"},
    ],
)
def test_wrong_options_are_refused(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as refused:
        open_sim({"world": str(folder), **wrong})
    assert refused.value.code is Code.SETTINGS_INVALID


def test_latency_is_paid_per_quote_and_not_by_default(folder: Path) -> None:
    slept: list[float] = []
    slow = World.open(folder, quote_seconds=0.04, sleep=slept.append)
    host = slow.intel.platform("host")
    td, enclave = host.launch_td(TdImage()), host.load_enclave(EnclaveImage("e"))
    td.evidence(bytes(64))
    enclave.evidence(bytes(64))
    assert slept == [0.04, 0.04]
    World.open(folder, sleep=slept.append).intel.platform("host").launch_td(
        TdImage()
    ).evidence(bytes(64))
    assert len(slept) == 2


def test_quotes_of_one_host_are_made_one_at_a_time(tmp_path: Path) -> None:
    busy = threading.Lock()
    overlaps: list[bool] = []

    def sleep(_: float) -> None:
        overlaps.append(not busy.acquire(blocking=False))
        time.sleep(0.002)
        busy.release()

    def quote() -> None:
        gate = QuoteGate(tmp_path / "lock", seconds=1, sleep=sleep)
        for _ in range(5):
            with gate.one_quote():
                pass

    threads = [threading.Thread(target=quote) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [False] * 20


def hold(path: Path, held: Any, release: Any) -> None:
    def sleep(_: float) -> None:
        held.set()
        release.wait(10)

    with QuoteGate(path, seconds=1, sleep=sleep).one_quote():
        pass


def test_another_process_waits_for_the_slot(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    path = tmp_path / "lock"
    process = context.Process(target=hold, args=(path, held, release))
    process.start()
    assert held.wait(30)
    passed = threading.Event()

    def quote() -> None:
        with QuoteGate(path, seconds=1, sleep=lambda _: None).one_quote():
            passed.set()

    thread = threading.Thread(target=quote)
    thread.start()
    assert not passed.wait(0.2)
    release.set()
    assert passed.wait(10)
    thread.join()
    process.join()
    assert process.exitcode == 0


def test_snp_guest_by_options(tmp_path: Path) -> None:
    world = World.create(tmp_path)
    options = {"world": str(tmp_path), "tee": "snp", "kernel": "a kernel"}
    guest = open_sim(options)
    other = open_sim({**options, "kernel": "another kernel"})
    assert guest.own_measurement()[0] == "snp"
    assert guest.own_measurement() != other.own_measurement()
    chip = world.amd.chip("host", "Milan")
    assert chip.chip_id[:8] in guest.evidence(bytes(64))
    with pytest.raises(SettingsError):
        open_sim({**options, "product": "Naples"})
