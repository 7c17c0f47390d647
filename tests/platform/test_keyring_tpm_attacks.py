# SPDX-License-Identifier: Apache-2.0
"""Whoever sits between anchor and TPM, or ends the process, lets nothing older in."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from anchor_rig import Provider, rotated
from hypothesis import given, settings
from hypothesis import strategies as st

from keyring_disk import PATH, CrashError, FakeSystem, Fault
from tightseal.errors import Code, KeyReleaseError, ServiceError, TightsealError
from tightseal.keys.keyring import AnchorRecord
from tightseal.model.secret import Secret
from tightseal.platform.slots.tpm_counter import CounterIndex, counter_handle
from tightseal.platform.slots.tpm_session import Command
from tightseal.platform.slots.tpm_wire import Exchange, OpenTpm
from tightseal.release.tpmanchor import AnchorTpm
from tightseal_sim.tpm import SimTpm

Change = Callable[[int, bytes, bytes], bytes]
MANY = settings(deadline=None, max_examples=60)


class Between:
    """Hears every message and may change answers, or keep commands back."""

    def __init__(self, tpm: SimTpm) -> None:
        self.tpm = tpm
        self.change: Change = lambda _, __, answer: answer
        self.kept_back: Command | None = None
        self.heard: list[tuple[bytes, bytes]] = []

    @contextmanager
    def open(self) -> Iterator[Exchange]:
        with self.tpm.open() as exchange:

            def between(command: bytes) -> bytes:
                if self.kept_back is not None and code_of(command) == self.kept_back:
                    return bytes.fromhex("8001 0000000a 00000000")
                answer = exchange(command)
                answer = self.change(len(self.heard), command, answer)
                self.heard.append((command, answer))
                return answer

            yield between


def code_of(command: bytes) -> int:
    return int.from_bytes(command[6:10], "big")


def provider_on(
    open_tpm: OpenTpm, path: Path, system: FakeSystem | None = None
) -> Provider:
    tpm = AnchorTpm(open_tpm, sleep=lambda _: None)
    if system is None:
        return Provider(path, tpm)
    return Provider(path, tpm, system)


def anchored(tpm: SimTpm, system: FakeSystem) -> Provider:
    made = provider_on(tpm.open, Path(PATH), system)
    made.make()
    made.begin()
    made.start().change(rotated)
    return made


@pytest.fixture
def tpm() -> SimTpm:
    return SimTpm(bytes(range(32)))


HELD = SimTpm(b"held".ljust(32, b"\0"))
SYSTEM = FakeSystem()
PROVIDER = anchored(HELD, SYSTEM)
KEYRING = PROVIDER.unanchored().keyring


def asked(between: Between) -> int | None:
    provider = provider_on(between.open, Path(PATH), SYSTEM.copy())
    return provider.anchor(KEYRING).remembered(KEYRING.header.keyring_id)


def answers() -> list[int]:
    between = Between(HELD)
    assert asked(between) == 2
    return [len(answer) for _, answer in between.heard]


LENGTHS = answers()


@MANY
@given(data=st.data())
def test_a_changed_answer_never_gives_another_counter(data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(LENGTHS) - 1), label="answer")
    at = data.draw(st.integers(0, LENGTHS[number] - 1), label="byte")
    flip = data.draw(st.integers(1, 255), label="flip")
    between = Between(HELD)

    def change(count: int, _: bytes, answer: bytes) -> bytes:
        if count != number:
            return answer
        return answer[:at] + bytes([answer[at] ^ flip]) + answer[at + 1 :]

    between.change = change
    with suppress(KeyReleaseError, ServiceError):
        assert asked(between) == 2


@MANY
@given(number=st.integers(0, len(LENGTHS) - 1), data=st.binary(max_size=120))
def test_an_answer_of_any_bytes_never_gives_another_counter(
    number: int, data: bytes
) -> None:
    between = Between(HELD)
    between.change = lambda count, _, answer: data if count == number else answer
    with suppress(KeyReleaseError, ServiceError):
        assert asked(between) == 2


def test_an_older_answer_is_not_taken_again(tpm: SimTpm) -> None:
    provider = anchored(tpm, FakeSystem())
    between = Between(tpm)
    provider.tpm = AnchorTpm(between.open)
    assert provider.remembered() == 2
    (older,) = (a for c, a in between.heard if code_of(c) == Command.NV_READ)
    provider.start().change(rotated)
    between.change = lambda _, command, answer: (
        older if code_of(command) == Command.NV_READ else answer
    )
    with pytest.raises(ServiceError, match="not by the TPM with the pinned EK"):
        provider.remembered()


def test_an_increment_that_was_kept_back_is_noticed(tpm: SimTpm) -> None:
    provider = anchored(tpm, FakeSystem())
    between = Between(tpm)
    provider.tpm = AnchorTpm(between.open)
    keeper = provider.start()
    between.kept_back = Command.NV_INCREMENT
    with pytest.raises(ServiceError) as caught:
        keeper.change(rotated)
    assert caught.value.code is Code.STATE_UNAVAILABLE
    between.kept_back = None
    assert provider.start().keyring.header.counter == provider.remembered() == 3


def test_an_increment_whose_answer_was_lost_counts_once(tpm: SimTpm) -> None:
    provider = anchored(tpm, FakeSystem())
    between = Between(tpm)
    provider.tpm = AnchorTpm(between.open)
    keeper = provider.start()
    between.change = lambda _, command, answer: (
        b"" if code_of(command) == Command.NV_INCREMENT else answer
    )
    with pytest.raises(ServiceError):
        keeper.change(rotated)
    between.change = lambda _, __, answer: answer
    assert provider.start().keyring.header.counter == provider.remembered() == 3


def test_an_increment_is_not_taken_twice(tpm: SimTpm) -> None:
    provider = anchored(tpm, FakeSystem())
    refusals: list[bytes] = []

    class Again(Between):
        @contextmanager
        def open(self) -> Iterator[Exchange]:
            with self.tpm.open() as exchange:

                def twice(command: bytes) -> bytes:
                    answer = exchange(command)
                    if code_of(command) == Command.NV_INCREMENT:
                        refusals.append(exchange(command)[6:10])
                    return answer

                yield twice

    provider.tpm = AnchorTpm(Again(tpm).open)
    provider.start().change(rotated)
    assert [refusal != bytes(4) for refusal in refusals] == [True]
    assert provider.remembered() == 3


def test_the_authorisation_value_is_not_heard(tpm: SimTpm) -> None:
    between = Between(tpm)
    provider = provider_on(between.open, Path(PATH), FakeSystem())
    provider.make()
    provider.begin()
    provider.start().change(rotated)
    auth = provider.opened_record().auth.reveal()
    assert len(auth) == 32
    heard = b"".join(c + a for c, a in between.heard)
    assert any(code_of(c) == Command.NV_DEFINE_SPACE for c, _ in between.heard)
    assert auth not in heard
    assert auth[:12] not in heard
    data = provider.record.read()
    assert data is not None
    assert auth not in data


def test_an_index_is_said_to_be_gone_and_is_not(tpm: SimTpm) -> None:
    """Whoever hides the index from ``begin`` gets no second one past the TPM."""
    provider = anchored(tpm, FakeSystem())
    between = Between(tpm)
    between.change = lambda _, command, answer: (
        bytes.fromhex("8001 0000000a 0000018b")
        if code_of(command) == Command.NV_READ_PUBLIC
        else answer
    )
    provider.tpm = AnchorTpm(between.open)
    with pytest.raises(KeyReleaseError, match="the TPM has an index"):
        provider.begin(adopt=True)
    assert provider.remembered() == 2


@MANY
@given(data=st.data())
def test_no_changed_record_is_believed(data: st.DataObject) -> None:
    record = PROVIDER.record.read()
    assert record is not None
    at = data.draw(st.integers(0, len(record) - 1), label="byte")
    flip = data.draw(st.integers(1, 255), label="flip")
    changed = record[:at] + bytes([record[at] ^ flip]) + record[at + 1 :]
    with pytest.raises(KeyReleaseError) as caught:
        AnchorRecord.open(changed, KEYRING)
    assert caught.value.code in {Code.KEYRING_TAMPERED, Code.KEYRING_MALFORMED}


@given(data=st.binary(max_size=200))
def test_no_other_bytes_are_a_record(data: bytes) -> None:
    with pytest.raises(KeyReleaseError):
        AnchorRecord.open(data, KEYRING)


def test_a_record_that_is_too_long_is_refused(tpm: SimTpm, tmp_path: Path) -> None:
    provider = provider_on(tpm.open, tmp_path / "keyring.tsk")
    provider.make()
    provider.record_path.write_bytes(bytes(5000))
    with pytest.raises(KeyReleaseError) as caught:
        provider.start()
    assert caught.value.code is Code.KEYRING_MALFORMED


@given(
    st.integers(0, 2**62),
    st.integers(1, 2**52),
    st.integers(0, 2**20),
)
def test_a_record_is_read_as_it_was_written(
    value: int, counter: int, more: int
) -> None:
    record = AnchorRecord(
        ek=b"\0\x0b" + bytes(32),
        handle=counter_handle(KEYRING.header.keyring_id),
        policy=secrets.token_bytes(32),
        auth=Secret(secrets.token_bytes(32)),
        value=value,
        counter=counter,
    )
    again = AnchorRecord.open(record.seal(KEYRING), KEYRING)
    assert again == record
    assert again.remembered(value + more) == counter + more


@given(st.binary(min_size=32, max_size=32))
def test_handles_are_the_owners_to_give(keyring_id: bytes) -> None:
    assert 0x01800000 <= counter_handle(keyring_id) <= 0x01BFFFFF


def test_an_index_has_another_name_once_written() -> None:
    index = CounterIndex(0x01800001, bytes(32), Secret(bytes(31) + b"\1"))
    assert index.named().name != index.named(written=False).name


def test_a_start_with_nothing_to_tell_writes_nothing(tpm: SimTpm) -> None:
    before = FakeSystem()
    provider = anchored(tpm, before)
    provider.system = system = before.copy()
    provider.start()
    assert f"open {PATH}.anchor" in system.calls
    assert not {"write", "lock", f"open {PATH}.anchor.lock"} & set(system.calls)


FAULTS = [Fault.CRASHES, Fault.CRASHES_AFTER, Fault.FAILS, Fault.FAILS_AFTER]


def calls_of(run: Callable[[Provider], object]) -> int:
    tpm, system = SimTpm(bytes(32)), FakeSystem()
    provider = anchored(tpm, system)
    provider.system = again = system.copy()
    run(provider)
    return len(again.calls)


def changed(provider: Provider) -> None:
    provider.start().change(rotated)


def adopted(provider: Provider) -> None:
    provider.begin(adopt=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_crash_in_a_change_leaves_the_tpm_not_ahead(fault: Fault) -> None:
    for at in range(calls_of(changed)):
        tpm, system = SimTpm(bytes(32)), FakeSystem()
        provider = anchored(tpm, system)
        older = system.disk.content(PATH)
        provider.system = broken = system.copy()
        broken.fault, broken.at = fault, at
        with suppress(CrashError, TightsealError):
            changed(provider)
        provider.system = again = FakeSystem(broken.disk)
        counter = provider.start().keyring.header.counter
        assert counter == provider.remembered()
        assert counter in (2, 3)
        assert older is not None
        if counter == 3:
            again.disk.nodes[again.disk.seen[PATH]].seen = older
            with pytest.raises(KeyReleaseError, match="has seen 3"):
                provider.start()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_crash_while_an_anchor_is_made_is_made_up_for(fault: Fault) -> None:
    for at in range(calls_of(adopted)):
        tpm, system = SimTpm(bytes(32)), FakeSystem()
        provider = anchored(tpm, system)
        provider.system = broken = system.copy()
        broken.fault, broken.at = fault, at
        with suppress(CrashError, TightsealError):
            adopted(provider)
        provider.system = FakeSystem(broken.disk)
        try:
            assert provider.remembered() == 2
        except KeyReleaseError as e:
            assert e.code is Code.KEYRING_ROLLED_BACK  # noqa: PT017
            provider.begin(adopt=True)
        assert provider.start().keyring.header.counter == 2
