# SPDX-License-Identifier: Apache-2.0
"""Slot ``tpm2`` with swtpm and the simulated TPM: what opens it and what does not."""

import errno
import os
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NoReturn

import pytest
from slot_rig import IDS, changed, made, refused
from tpm_swtpm import MissingError, Swtpm, Tpm, Tpms, swtpm

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.canonical import Value
from tightseal.model.secret import Secret
from tightseal.platform.slots.tpm2 import Tpm2Slot
from tightseal.platform.slots.tpm_objects import open_sessions
from tightseal.platform.slots.tpm_session import Link, SessionKind
from tightseal.platform.slots.tpm_wire import Exchange, open_device

MEASURED = bytes([0x6D]) * 32
PCRS = frozenset({4, 7})


def slot_of(tpm: Tpm, **options: object) -> Tpm2Slot:
    return Tpm2Slot(tpm.open, **{"pcrs": PCRS, **options})  # type: ignore[arg-type]


def ek_of(tpm: Tpm) -> bytes:
    with tpm.open() as exchange, open_sessions(Link(exchange), ()) as (name, _):
        return name


def booted(tpm: Tpm) -> Tpm:
    """Reset, with what a boot measures."""
    tpm.reboot()
    tpm.extend(4, MEASURED)
    tpm.extend(7, MEASURED)
    return tpm


def test_opens_after_a_restart_into_the_same_boot(tpm: Tpm) -> None:
    parameters, key = made(slot_of(booted(tpm)))
    assert slot_of(booted(tpm)).open(parameters, **IDS) == key
    assert slot_of(tpm).rewrap(parameters) is None


def test_all_pcrs_at_once(tpm: Tpm) -> None:
    slot = slot_of(booted(tpm), pcrs=range(24))
    parameters, key = made(slot)
    assert slot.open(parameters, **IDS) == key
    tpm.extend(23, MEASURED)
    refused(slot, parameters, "PCR 23 was ")


def test_no_handle_is_left_behind(tpm: Tpm) -> None:
    # A TPM holds three objects and as many sessions: a leak shows in a few rounds.
    with tpm.open() as exchange:
        slot = Tpm2Slot(lambda: _Kept(exchange), pcrs=PCRS)
        parameters, key = made(slot)
        for _ in range(8):
            assert slot.open(parameters, **IDS) == key
            refused(slot, changed(parameters, private=b"x"), "LOAD")


def test_a_pcr_that_changed_is_named(tpm: Tpm) -> None:
    parameters, _ = made(slot_of(booted(tpm)))
    tpm.extend(7, MEASURED)
    refused(slot_of(tpm), parameters, "PCR 7 was ")
    tpm.extend(9, MEASURED)
    tpm.reboot()
    refused(slot_of(tpm), parameters, "PCR 4 was ")


def test_a_pcr_that_is_not_asked_for_may_change(tpm: Tpm) -> None:
    parameters, key = made(slot_of(tpm))
    tpm.extend(9, MEASURED)
    assert slot_of(tpm).open(parameters, **IDS) == key


def test_a_cleared_tpm(tpm: Tpm) -> None:
    parameters, _ = made(slot_of(tpm))
    before = ek_of(tpm)
    tpm.clear()
    refused(slot_of(tpm), parameters, "the TPM was cleared")
    assert ek_of(tpm) == before
    parameters, key = made(slot_of(tpm))
    assert slot_of(tpm).open(parameters, **IDS) == key


def test_another_tpm(tpms: Tpms) -> None:
    mine, other = tpms.new(), tpms.new()
    parameters, _ = made(slot_of(mine))
    refused(slot_of(other), parameters, "another TPM: its EK is ")


def test_another_tpm_with_its_ek_written_into_the_file(tpms: Tpms) -> None:
    mine, other = tpms.new(), tpms.new()
    parameters, _ = made(slot_of(mine))
    swapped = changed(parameters, ek=ek_of(other))
    refused(slot_of(other), swapped, "not this storage key's")
    refused(slot_of(other, ek_name=ek_of(mine)), swapped, "another TPM")
    refused(slot_of(mine, ek_name=ek_of(mine)), swapped, "another TPM")


def test_the_pin_holds_when_the_slot_is_made(tpms: Tpms) -> None:
    mine, other = tpms.new(), tpms.new()
    with pytest.raises(KeyReleaseError, match="another TPM"):
        slot_of(mine, ek_name=ek_of(other)).create(**IDS)
    slot = slot_of(mine, ek_name=ek_of(mine))
    parameters, key = made(slot)
    assert slot.open(parameters, **IDS) == key


def test_an_object_of_another_slot(tpm: Tpm) -> None:
    slot = slot_of(tpm)
    (one, _), (two, _) = made(slot), made(slot)
    assert one["unique"] != two["unique"]
    refused(slot, changed(one, private=two["private"]), "not this storage key's")
    both = changed(one, private=two["private"], unique=two["unique"])
    refused(slot, both, "holds another key")


def test_a_policy_of_other_pcr_values_does_not_load(tpm: Tpm) -> None:
    # The host writes today's values over those that the slot was made with.
    parameters, _ = made(slot_of(booted(tpm)))
    tpm.extend(7, MEASURED)
    now, _ = made(slot_of(tpm))
    refused(slot_of(tpm), changed(parameters, pcrs=now["pcrs"]), "not this storage")


def test_fewer_pcrs_than_the_caller_demands(tpm: Tpm) -> None:
    parameters, _ = made(slot_of(tpm, pcrs={4}))
    refused(slot_of(tpm), parameters, "bound to PCRs [4], at least [4, 7] must")


def test_more_pcrs_than_the_caller_demands(tpm: Tpm) -> None:
    parameters, key = made(slot_of(tpm, pcrs={1, 4, 7}))
    slot = slot_of(tpm)
    assert slot.open(parameters, **IDS) == key
    assert slot.rewrap(parameters) == "bound to PCRs [1, 4, 7], now [4, 7]"


def test_an_owner_value_that_is_wrong(tpm: Tpm) -> None:
    slot = slot_of(tpm, owner_auth=Secret(b"wrong"))
    with pytest.raises(KeyReleaseError, match="authorisation value is another"):
        slot.create(**IDS)


def test_an_owner_value(cannot_run: Callable[[str], NoReturn]) -> None:
    with tempfile.TemporaryDirectory(prefix="tightseal-") as folder:
        try:
            tpms = Tpms(swtpm(), Path(folder))
        except MissingError as missing:
            cannot_run(str(missing))
        try:
            tpm = tpms.new()
            assert isinstance(tpm, Swtpm)
            tpm.set_owner_auth(b"owned")
            with pytest.raises(KeyReleaseError, match="authorisation value is another"):
                slot_of(tpm).create(**IDS)
            slot = slot_of(tpm, owner_auth=Secret(b"owned"))
            parameters, key = made(slot)
            assert slot.open(parameters, **IDS) == key
        finally:
            tpms.stop()


class _Kept(AbstractContextManager[Exchange]):
    """A connection that outlives its use: no resource manager forgets for us."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> Exchange:
        return self._exchange

    def __exit__(self, *_: object) -> None:
        pass


def test_the_pinned_ek_cannot_be_shown_by_another_tpm(tpms: Tpms) -> None:
    real, fake = tpms.new(), tpms.new()
    pinned = ek_of(real)
    with real.open() as ask_real, fake.open() as ask_fake:

        def interposed(command: bytes) -> bytes:
            answer = ask_fake(command)
            if command[6:14] == bytes.fromhex("00000131 4000000b"):
                # The fake's handle, the real one's public key.
                return answer[:14] + ask_real(command)[14:]
            return answer

        slot = Tpm2Slot(lambda: _Kept(interposed), pcrs=PCRS, ek_name=pinned)
        with pytest.raises(KeyReleaseError, match="not the TPM with the pinned EK"):
            slot.create(**IDS)


BAD_PCRS: list[Value] = [
    [],
    [[7, bytes(32)], [4, bytes(32)]],
    [[4, bytes(32)], [4, bytes(32)], [7, bytes(32)]],
    [[4, bytes(32)], [7, bytes(31)]],
    [[4, bytes(32)], [24, bytes(32)]],
    [[4, bytes(32)], [True, bytes(32)]],
    [[4, bytes(32), 0], [7, bytes(32)]],
    [4, 7],
    [[pcr, bytes(32)] for pcr in range(25)],
]


@pytest.mark.parametrize("pcrs", BAD_PCRS, ids=str)
def test_pcrs_that_are_none(pcrs: Value) -> None:
    stored = {
        "form": 1,
        "pcrs": pcrs,
        "ek": bytes(34),
        "unique": bytes(32),
        "private": bytes(100),
        "check": bytes(16),
    }
    refused(Tpm2Slot(_nothing, pcrs=PCRS), stored, "pcrs: not")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pcrs": ()}, "one of 0-23"),
        ({"pcrs": {24}}, "one of 0-23"),
        ({"pcrs": {-1}}, "one of 0-23"),
        ({"pcrs": {7}, "ek_name": bytes(32)}, "not 34 bytes"),
    ],
)
def test_settings_that_cannot_be(options: dict[str, object], words: str) -> None:
    with pytest.raises(KeyReleaseError, match=words):
        Tpm2Slot(_nothing, **options)  # type: ignore[arg-type]


def _nothing() -> NoReturn:
    raise AssertionError("the TPM was opened")


def test_no_device(tmp_path: Path) -> None:
    slot = Tpm2Slot(open_device(tmp_path / "tpmrm0"), pcrs=PCRS)
    with pytest.raises(KeyReleaseError, match="no TPM answers: ENOENT") as caught:
        slot.create(**IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


class Device:
    """File operations over one exchange, as ``/dev/tpmrm0`` has them."""

    def __init__(self, exchange: Exchange, *, takes: int = 4096) -> None:
        self.exchange = exchange
        self.takes = takes
        self.answer = b""
        self.is_open = False

    def open(self, _path: str, flags: int) -> int:
        assert flags == os.O_RDWR
        self.is_open = True
        return 9

    def write(self, _fd: int, data: bytes) -> int:
        if len(data) > self.takes:
            return self.takes
        self.answer = self.exchange(data)
        return len(data)

    def read(self, _fd: int, length: int) -> bytes:
        if not self.answer:
            raise OSError(errno.EIO, "nothing to read")
        return self.answer[:length]

    def close(self, _fd: int) -> None:
        self.is_open = False

    def mkdir(self, path: str) -> None:
        raise AssertionError(path)

    rmdir = mkdir


def test_through_the_kernels_device(tpm: Tpm) -> None:
    with tpm.open() as exchange:
        device = Device(exchange)
        slot = Tpm2Slot(open_device(files=device), pcrs=PCRS)
        parameters, key = made(slot)
        assert slot.open(parameters, **IDS) == key
        assert not device.is_open
        device.takes = 5
        refused(slot, parameters, "took 5 of ")
        assert not device.is_open


def test_both_kinds_of_session_can_be_open(tpm: Tpm) -> None:
    kinds = SessionKind.HMAC, SessionKind.POLICY
    with tpm.open() as exchange:
        link = Link(exchange)
        for _ in range(5):
            with open_sessions(link, kinds) as (_, sessions):
                assert len({s.handle.value for s in sessions}) == 2
