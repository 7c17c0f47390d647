# SPDX-License-Identifier: Apache-2.0
"""Whoever sits between the slot and the TPM: reads nothing, changes nothing."""

import hashlib
import hmac
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from slot_rig import IDS, corrupted, made

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.secret import Secret
from tightseal.platform.slots import tpm2
from tightseal.platform.slots.tpm2 import Tpm2Slot
from tightseal.platform.slots.tpm_session import MAX_TRIES, Command, Link, kdf_a, kdf_e
from tightseal.platform.slots.tpm_wire import (
    EK_TEMPLATE,
    MAX_MESSAGE_BYTES,
    SRK_TEMPLATE,
    Exchange,
    Reader,
    TpmError,
    ecc_point,
    pcr_selection,
    policy_pcr,
    sealed_template,
    sized,
)
from tightseal_sim.tpm import SimTpm

PCRS = frozenset({7})
Change = Callable[[int, bytes], bytes]


class Between:
    """Hears every message and may change answers."""

    def __init__(self, tpm: SimTpm, change: Change = lambda _, a: a) -> None:
        self.tpm = tpm
        self.change = change
        self.heard: list[bytes] = []
        self.answers = 0

    @contextmanager
    def open(self) -> Iterator[Exchange]:
        with self.tpm.open() as exchange:

            def between(command: bytes) -> bytes:
                answer = self.change(self.answers, exchange(command))
                self.answers += 1
                self.heard += [command, answer]
                return answer

            yield between


TPM = SimTpm(bytes(range(32)))
SLOT = Tpm2Slot(TPM.open, pcrs=PCRS)
PARAMETERS, KEY = made(SLOT)


def test_nothing_secret_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bytes] = []
    honest = tpm2.sealed

    def spy(material: Secret, *arguments: object) -> object:
        seen.append(material.reveal())
        return honest(material, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(tpm2, "sealed", spy)
    between = Between(TPM)
    slot = Tpm2Slot(between.open, pcrs=PCRS)
    parameters, key = made(slot)
    assert slot.open(parameters, **IDS) == key
    (material,) = seen
    assert len(material) == 32
    heard = b"".join(between.heard)
    assert len(between.heard) > 20
    for secret in (material, key.reveal()):
        assert secret not in heard
        assert secret[:16] not in heard


def answers_of_one_opening() -> list[int]:
    between = Between(TPM)
    Tpm2Slot(between.open, pcrs=PCRS).open(PARAMETERS, **IDS)
    return [len(answer) for answer in between.heard[1::2]]


LENGTHS = answers_of_one_opening()


@settings(deadline=None)
@given(data=st.data())
def test_a_changed_answer_never_leads_to_another_key(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(LENGTHS) - 1), label="answer")
    at = data.draw(st.integers(0, LENGTHS[number] - 1), label="byte")
    flip = data.draw(st.integers(1, 255), label="flip")

    def change(count: int, answer: bytes) -> bytes:
        if count != number:
            return answer
        return answer[:at] + bytes([answer[at] ^ flip]) + answer[at + 1 :]

    slot = Tpm2Slot(Between(TPM, change).open, pcrs=PCRS, sleep=lambda _: None)
    try:
        assert slot.open(PARAMETERS, **IDS) == KEY
    except KeyReleaseError as e:
        assert e.code is Code.SLOT_UNAVAILABLE  # noqa: PT017


@settings(deadline=None)
@given(number=st.integers(0, len(LENGTHS) - 1), data=st.binary(max_size=200))
def test_an_answer_of_any_bytes_is_unavailable(number: int, data: bytes) -> None:
    between = Between(TPM, lambda n, answer: data if n == number else answer)
    slot = Tpm2Slot(between.open, pcrs=PCRS, sleep=lambda _: None)
    try:
        assert slot.open(PARAMETERS, **IDS) == KEY
    except KeyReleaseError as e:
        assert e.code is Code.SLOT_UNAVAILABLE  # noqa: PT017


def test_the_last_answer_of_another_session_is_not_taken() -> None:
    first = Between(TPM)
    Tpm2Slot(first.open, pcrs=PCRS).open(PARAMETERS, **IDS)
    answers = first.heard[1::2]
    commands = [command[6:10] for command in first.heard[::2]]
    unseal = commands.index(bytes.fromhex("0000015e"))
    again = Between(TPM, lambda n, a: answers[unseal] if n == unseal else a)
    with pytest.raises(KeyReleaseError, match="not by the TPM with the pinned EK"):
        Tpm2Slot(again.open, pcrs=PCRS).open(PARAMETERS, **IDS)


def test_the_answer_is_asked_for_encrypted() -> None:
    between = Between(TPM)
    Tpm2Slot(between.open, pcrs=PCRS).open(PARAMETERS, **IDS)
    commands = between.heard[::2]
    (unseal,) = (c for c in commands if c[6:10] == bytes.fromhex("0000015e"))
    attributes = unseal[10 + 4 + 4 + 4 + 2 + 32]
    assert attributes & 0x40


@given(data=st.data())
def test_no_corrupted_parameters_open(data: st.DataObject) -> None:
    parameters = data.draw(corrupted(PARAMETERS))
    with pytest.raises(KeyReleaseError) as caught:
        SLOT.open(parameters, **IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


class Liar(SimTpm):
    """A TPM with the right EK that does something else than it is asked to."""

    def __init__(self, seed: bytes, command: Command, answer: bytes) -> None:
        super().__init__(seed)
        honest = self._handlers[command]

        def lie(call: Any) -> tuple[bytes, bytes]:
            return honest(call)[0], answer

        self._handlers[command] = lie


PUBLIC_FOR_ALL = sealed_template(bytes(32), bytes(32))
LIES = [
    ("no_bank", Command.PCR_READ, bytes(12), "no SHA-256 values of PCRs [7]"),
    (
        "other_pcr",
        Command.PCR_READ,
        bytes(4) + pcr_selection([8]) + b"\0\0\0\1" + b"\0\x20" + bytes(32),
        "no SHA-256 values of PCRs [7]",
    ),
    (
        "wider_policy",
        Command.CREATE,
        sized(b"private") + sized(PUBLIC_FOR_ALL),
        "made another object",
    ),
    ("other_object", Command.LOAD, sized(bytes(34)), "loaded another object"),
    ("other_secret", Command.UNSEAL, sized(bytes(32)), "gave back another key"),
]


@pytest.mark.parametrize(
    ("command", "answer", "words"), [c[1:] for c in LIES], ids=[c[0] for c in LIES]
)
def test_a_tpm_that_lies_is_found_when_the_slot_is_made(
    command: Command, answer: bytes, words: str
) -> None:
    liar = Liar(bytes(32), command, answer)
    with pytest.raises(KeyReleaseError, match=re.escape(words)) as caught:
        Tpm2Slot(liar.open, pcrs=PCRS).create(**IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


@pytest.mark.parametrize("rc", [0x922, 0x90A, 0x908])
def test_a_busy_tpm_is_asked_again_and_not_for_ever(rc: int) -> None:
    waited: list[float] = []
    busy = struct.pack(">HII", 0x8001, 10, rc)

    def twice(count: int, answer: bytes) -> bytes:
        return busy if count in (0, 1) else answer

    slot = Tpm2Slot(Between(TPM, twice).open, pcrs=PCRS, sleep=waited.append)
    assert slot.open(PARAMETERS, **IDS) == KEY
    assert len(waited) == 2
    for_ever = Between(TPM, lambda _n, _a: busy)
    slot = Tpm2Slot(for_ever.open, pcrs=PCRS, sleep=waited.append)
    with pytest.raises(KeyReleaseError, match=f"{rc:#x}"):
        slot.open(PARAMETERS, **IDS)
    assert for_ever.answers == MAX_TRIES


def test_a_command_over_the_bound_is_not_sent() -> None:
    link = Link(lambda _: pytest.fail("sent"))
    with pytest.raises(TpmError, match="command of 4107 bytes"):
        link.run(Command.LOAD, bytes(MAX_MESSAGE_BYTES + 1))


# -- structures ---------------------------------------------------------------------


def test_templates_of_the_profiles() -> None:
    # TCG EK Credential Profile, template L-2; TPM 2.0 Provisioning Guidance, SRK.
    policy = "837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"
    ek = f"0023 000b 000300b2 0020 {policy} 0006 0080 0043 0010 0003 0010"
    assert bytes.fromhex(ek) + 2 * (b"\0\x20" + bytes(32)) == EK_TEMPLATE
    srk = "0023 000b 00030472 0000 0006 0080 0043 0010 0003 0010 0000 0000"
    assert bytes.fromhex(srk) == SRK_TEMPLATE


def test_sealed_objects_open_by_policy_alone() -> None:
    template = sealed_template(bytes(32))
    attributes = int.from_bytes(template[4:8], "big")
    assert attributes == 0x492
    user_with_auth = 0x40
    assert not attributes & user_with_auth


def test_policy_of_one_pcr() -> None:
    # TPM2_PolicyPCR over PCR 7, all zero: recomputed from Part 3, section 23.7.

    selection = bytes.fromhex("00000001 000b 03 800000")
    assert pcr_selection([7]) == selection
    inner = hashlib.sha256(bytes(32)).digest()
    outer = bytes(32) + bytes.fromhex("0000017f") + selection + inner
    assert policy_pcr({7: bytes(32)}) == hashlib.sha256(outer).digest()


@given(
    pcrs=st.sets(st.integers(0, 23), min_size=1),
    other=st.sets(st.integers(0, 23), min_size=1),
)
def test_each_selection_is_another_policy(pcrs: set[int], other: set[int]) -> None:
    one, two = (dict.fromkeys(s, bytes(32)) for s in (pcrs, other))
    assert (policy_pcr(one) == policy_pcr(two)) == (pcrs == other)


def test_key_derivation_functions_by_their_text() -> None:

    fixed = b"\0\0\0\1" + b"ATH\0" + b"uu" + b"v" + b"\0\0\1\0"
    assert kdf_a(b"k", b"ATH", b"uu", b"v", 256) == hmac.digest(b"k", fixed, "sha256")
    assert len(kdf_a(b"k", b"CFB", b"", b"", 128)) == 16
    plain = b"\0\0\0\1" + b"z" * 32 + b"SECRET\0" + b"uu" + b"v"
    assert kdf_e(b"z" * 32, b"SECRET", b"uu", b"v") == hashlib.sha256(plain).digest()


def test_a_point_with_leading_zeros_left_out() -> None:
    head = SRK_TEMPLATE[:-4]
    assert ecc_point(head + b"\0\1\5" + b"\0\0") == (bytes(31) + b"\5", bytes(32))


@pytest.mark.parametrize(
    "public",
    [
        b"",
        SRK_TEMPLATE[:-1],
        SRK_TEMPLATE + b"\0",
        b"\0\1" + SRK_TEMPLATE[2:],
        SRK_TEMPLATE[:-4] + b"\0\x21" + bytes(33) + b"\0\0",
        SRK_TEMPLATE[:-8] + b"\0\4" + SRK_TEMPLATE[-6:],
    ],
)
def test_a_key_that_is_no_point_of_p256(public: bytes) -> None:
    with pytest.raises(TpmError):
        ecc_point(public)


@given(data=st.binary(max_size=40), count=st.integers(0, 60))
def test_a_reader_never_goes_beyond_its_end(data: bytes, count: int) -> None:
    reader = Reader(data)
    if count <= len(data):
        assert reader.take(count) == data[:count]
        assert reader.rest() == data[count:]
    else:
        with pytest.raises(TpmError, match="too short"):
            reader.take(count)
