# SPDX-License-Identifier: Apache-2.0
"""What a TPM refuses: the simulated one answers as the reference code does."""

import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest
from tpm_swtpm import MissingError, Tpms, swtpm

from tightseal.model.secret import Secret
from tightseal.platform.slots.tpm_objects import (
    Sealed,
    create_sealed,
    open_sessions,
    read_pcrs,
    storage_key,
)
from tightseal.platform.slots.tpm_session import (
    Command,
    Handle,
    Link,
    Session,
    SessionKind,
)
from tightseal.platform.slots.tpm_wire import (
    Exchange,
    TpmError,
    name_of,
    pcr_digest,
    pcr_selection,
    sized,
)


class Bench:
    """An open TPM with a sealed object, its parent and both sessions."""

    def __init__(self, exchange: Exchange, stack: ExitStack) -> None:
        self.exchange = exchange
        self.link = Link(exchange)
        kinds = SessionKind.HMAC, SessionKind.POLICY
        _, (self.session, self.policy) = stack.enter_context(
            open_sessions(self.link, kinds)
        )
        self.parent = stack.enter_context(
            storage_key(self.link, self.session, Secret(b""))
        )
        self.values = read_pcrs(self.link, {7})
        self.made = create_sealed(
            self.link,
            self.session,
            parent=self.parent,
            values=self.values,
            secret=Secret(b"s" * 32),
        )

    def load(self, made: Sealed, session: Session | None = None) -> Handle:
        handle, _ = self.link.run(
            Command.LOAD,
            sized(made.private) + sized(made.public),
            handles=(self.parent,),
            session=session or self.session,
            gives_handle=True,
        )
        return Handle(handle.value, name_of(made.public))


@pytest.fixture(scope="module", params=["simulated", "swtpm"])
def tpms(
    request: pytest.FixtureRequest, cannot_run: Callable[[str], NoReturn]
) -> Iterator[Tpms]:
    with tempfile.TemporaryDirectory(prefix="tightseal-") as folder:
        try:
            program = swtpm() if request.param == "swtpm" else None
        except MissingError as missing:
            cannot_run(str(missing))
        made = Tpms(program, Path(folder))
        yield made
        made.stop()


@pytest.fixture
def bench(tpms: Tpms) -> Iterator[Bench]:
    with tpms.new().open() as exchange, ExitStack() as stack:
        yield Bench(exchange, stack)


def refusal(step: Callable[[], object]) -> int:
    with pytest.raises(TpmError) as caught:
        step()
    return caught.value.rc


def raw(bench: Bench, tag: int, code: int, body: bytes) -> int:
    command = struct.pack(">HII", tag, 10 + len(body), code) + body
    return int.from_bytes(bench.exchange(command)[6:10], "big")


def test_unknown_command(bench: Bench) -> None:
    assert raw(bench, 0x8001, 0x1FF, b"") == 0x143


def test_a_private_part_that_was_changed(bench: Bench) -> None:
    private = bytearray(bench.made.private)
    private[-1] ^= 1
    spoiled = Sealed(bench.made.values, bench.made.unique, bytes(private))
    assert refusal(lambda: bench.load(spoiled)) == 0x9F


def test_a_public_part_of_another_policy(bench: Bench) -> None:
    wider = Sealed({7: b"x" * 32}, bench.made.unique, bench.made.private)
    assert refusal(lambda: bench.load(wider)) == 0x9F


def test_a_policy_of_other_pcr_values(bench: Bench) -> None:
    digest = sized(pcr_digest({7: b"x" * 32}))
    body = bench.policy.handle.wire + digest + pcr_selection({7})
    assert refusal(lambda: bench.link.run(Command.POLICY_PCR, body)) == 0x84


def unseal(bench: Bench, session: Session) -> int:
    loaded = bench.load(bench.made)
    try:
        return refusal(
            lambda: bench.link.run(Command.UNSEAL, handles=(loaded,), session=session)
        )
    finally:
        bench.link.flush(loaded)


def test_unsealing_without_the_policy(bench: Bench) -> None:
    assert unseal(bench, bench.policy) == 0x9D


def test_unsealing_by_authorisation_value(bench: Bench) -> None:
    assert unseal(bench, bench.session) == 0x12F


def test_a_session_with_another_key(bench: Bench) -> None:
    forged = Session(bench.session.handle, b"k" * 32, b"n" * 32)
    assert refusal(lambda: bench.load(bench.made, forged)) == 0xA2


def test_a_session_that_is_not_there(bench: Bench) -> None:
    gone = Session(Handle(0x0200003F), b"k" * 32, b"n" * 32)
    assert refusal(lambda: bench.load(bench.made, gone)) == 0x918


def test_an_object_that_is_not_there(bench: Bench) -> None:
    gone = Handle(0x80FFFFFE, b"\0\x0b" + bytes(32))
    run = bench.link.run
    rc = refusal(lambda: run(Command.UNSEAL, handles=(gone,), session=bench.policy))
    assert rc == 0x84


def test_flushing_what_is_not_there(bench: Bench) -> None:
    assert refusal(lambda: bench.link.flush(Handle(0x80FFFFFE))) == 0x84


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_command_cut_short(bench: Bench, cut: int) -> None:
    body = bench.policy.handle.wire + sized(bytes(32)) + pcr_selection({7})
    rc = raw(bench, 0x8001, Command.POLICY_PCR, body[:-cut])
    assert rc & 0xBF == 0x9A


def test_after_every_refusal_the_object_still_opens(bench: Bench) -> None:
    assert unseal(bench, bench.policy) == 0x9D
    loaded = bench.load(bench.made)
    body = bench.policy.handle.wire + sized(pcr_digest(bench.values))
    bench.link.run(Command.POLICY_PCR, body + pcr_selection({7}))
    _, answer = bench.link.run(Command.UNSEAL, handles=(loaded,), session=bench.policy)
    assert answer.sized() == b"s" * 32
    bench.link.flush(loaded)
