# SPDX-License-Identifier: Apache-2.0
"""The Gramine platform on a tree that behaves as Gramine documents it."""

import errno
import threading
import time
from collections.abc import Callable

import pytest
from platform_fakes import MRENCLAVE, GramineTree

from tightseal.errors import Code, PlatformError
from tightseal.platform.files import Retry
from tightseal.platform.gramine import GraminePlatform

REPORT_DATA = bytes(range(64))


def platform(tree: GramineTree, waits: list[float] | None = None) -> GraminePlatform:
    sleep = (lambda _: None) if waits is None else waits.append
    return GraminePlatform(files=tree, sleep=sleep)


def refused(call: Callable[[], object]) -> PlatformError:
    with pytest.raises(PlatformError) as caught:
        call()
    return caught.value


def test_quote_carries_the_report_data() -> None:
    quote = platform(GramineTree()).evidence(REPORT_DATA)
    assert quote[48 + 320 : 48 + 384] == REPORT_DATA


def test_own_measurement_comes_from_a_report_over_ourselves() -> None:
    tree = GramineTree()
    assert platform(tree).own_measurement() == ("sgx", MRENCLAVE)
    names = [name for name, _ in tree.written]
    assert names == ["target_info", "user_report_data"]
    assert tree.target_info == tree.my_target_info()


def test_sealing_key_is_the_file_and_a_copy_each_time() -> None:
    tree = GramineTree()
    opened = platform(tree)
    first = opened.sealing_key()
    assert first.reveal() == tree.keys["_sgx_mrenclave"]
    first.wipe()
    assert opened.sealing_key().reveal() == tree.keys["_sgx_mrenclave"]


def test_nothing_is_touched_before_the_first_use() -> None:
    tree = GramineTree()
    platform(tree)
    assert tree.calls == []


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_partial_reads_are_put_together(chunk: int) -> None:
    tree = GramineTree(chunk=chunk)
    tree.quote_padding = 100
    whole = GramineTree()
    whole.quote_padding = 100
    opened = platform(tree)
    assert opened.evidence(REPORT_DATA) == platform(whole).evidence(REPORT_DATA)
    assert opened.sealing_key() == platform(whole).sealing_key()


@pytest.mark.parametrize("step", [("open", "quote"), ("read", "quote")])
@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN])
def test_interrupted_reads_are_repeated(step: tuple[str, str], number: int) -> None:
    tree = GramineTree()
    tree.faults[step] = [number, number]
    waits: list[float] = []
    quote = platform(tree, waits).evidence(REPORT_DATA)
    assert quote[48 + 320 : 48 + 384] == REPORT_DATA
    assert waits == [0.05, 0.1]


def test_an_interrupted_write_is_repeated_whole() -> None:
    tree = GramineTree()
    opened = platform(tree)
    opened.start()
    tree.faults[("write", "user_report_data")] = [errno.EINTR]
    assert opened.evidence(REPORT_DATA)[368:432] == REPORT_DATA


def test_retries_end() -> None:
    tree = GramineTree()
    tree.faults[("read", "quote")] = [errno.EINTR] * 100
    waits: list[float] = []
    error = refused(lambda: platform(tree, waits).evidence(REPORT_DATA))
    assert error.code is Code.PLATFORM_FAILED
    assert "EINTR" in error.detail
    assert len(waits) == Retry().attempts - 1
    assert max(waits) <= Retry().max_delay
    assert not tree.open_fds


def _set(**changes: object) -> Callable[[GramineTree], None]:
    def apply(tree: GramineTree) -> None:
        for name, value in changes.items():
            setattr(tree, name, value)

    return apply


def _fault(operation: str, name: str, number: int) -> Callable[[GramineTree], None]:
    def apply(tree: GramineTree) -> None:
        tree.faults[(operation, name)] = [number] * 100

    return apply


def _key(value: bytes | None) -> Callable[[GramineTree], None]:
    def apply(tree: GramineTree) -> None:
        tree.keys.clear()
        if value is not None:
            tree.keys["_sgx_mrenclave"] = value

    return apply


def _second_writer(tree: GramineTree) -> None:
    tree.before_quote = lambda: tree.write_node(
        "/dev/attestation/user_report_data", b"x"
    )


def _second_writer_of_report(tree: GramineTree) -> None:
    tree.before_report = lambda: tree.write_node(
        "/dev/attestation/user_report_data", b"x"
    )


def _twin(tree: GramineTree) -> None:
    tree.my_target_info = lambda: bytes(512)  # type: ignore[method-assign]


def _short_target(tree: GramineTree) -> None:
    tree.my_target_info = lambda: bytes(511)  # type: ignore[method-assign]


def _partial_write(tree: GramineTree) -> None:
    tree.short_write.add("user_report_data")


EVIDENCE_CASES = [
    ("aesm_down", _fault("open", "quote", errno.EACCES), "platform_failed", "aesmd"),
    ("type_none", _set(kind=b"none"), "platform_unsupported", "dcap"),
    ("type_empty", _set(kind=b""), "platform_unsupported", "dcap"),
    ("gramine_direct", _set(missing={"attestation_type"}), "platform_unsupported", ""),
    ("no_quote_file", _set(missing={"quote"}), "platform_unsupported", "ENOENT"),
    ("debug_enclave", _set(flags=0x07), "provider_debug", "debug bit"),
    ("not_initialised", _set(flags=0x04), "platform_failed", "initialised"),
    ("second_writer", _second_writer, "platform_failed", "second writer"),
    ("report_race", _second_writer_of_report, "platform_failed", "second writer"),
    ("other_enclave", _twin, "platform_failed", "same enclave"),
    ("short_target_info", _short_target, "platform_failed", "511"),
    ("oversized_quote", _set(quote_padding=1 << 20), "platform_failed", "16384"),
    ("partial_write", _partial_write, "platform_failed", "63 of 64"),
]


@pytest.mark.parametrize(
    ("defect", "code", "words"),
    [c[1:] for c in EVIDENCE_CASES],
    ids=[c[0] for c in EVIDENCE_CASES],
)
def test_evidence_refused(
    defect: Callable[[GramineTree], None], code: str, words: str
) -> None:
    tree = GramineTree()
    defect(tree)
    error = refused(lambda: platform(tree).evidence(REPORT_DATA))
    assert error.code.value == code
    assert words in error.detail
    assert not tree.open_fds


KEY_CASES = [
    ("unset", _key(b""), "sealing_key_unavailable"),
    ("unknown", _key(None), "sealing_key_unavailable"),
    ("short", _key(bytes(range(15))), "platform_failed"),
    ("long", _key(bytes(range(17))), "platform_failed"),
    ("all_zero", _key(bytes(16)), "platform_failed"),
    ("denied", _fault("open", "_sgx_mrenclave", errno.EACCES), "platform_failed"),
    ("debug_enclave", _set(flags=0x07), "provider_debug"),
]


@pytest.mark.parametrize(
    ("defect", "code"), [c[1:] for c in KEY_CASES], ids=[c[0] for c in KEY_CASES]
)
def test_sealing_key_refused(defect: Callable[[GramineTree], None], code: str) -> None:
    tree = GramineTree()
    defect(tree)
    assert refused(platform(tree).sealing_key).code.value == code


def test_a_debug_enclave_gives_nothing_at_all() -> None:
    tree = GramineTree()
    tree.flags = 0x07
    opened = platform(tree)
    for call in (opened.start, opened.own_measurement, opened.sealing_key):
        assert refused(call).code is Code.PROVIDER_DEBUG
    assert ("open", "_sgx_mrenclave") not in tree.calls


@pytest.mark.parametrize("length", [0, 32, 63, 65])
def test_report_data_of_another_length_is_refused(length: int) -> None:
    tree = GramineTree()
    error = refused(lambda: platform(tree).evidence(bytes(length)))
    assert error.code is Code.PLATFORM_FAILED
    assert tree.calls == []


def test_threads_never_get_each_others_quote() -> None:
    tree = GramineTree()
    tree.before_quote = lambda: time.sleep(0.002)
    platforms = [platform(tree), platform(tree)]
    wrong: list[int] = []

    def run(number: int) -> None:
        data = bytes([number]) * 64
        quotes = [platforms[number % 2].evidence(data) for _ in range(10)]
        wrong.extend(number for q in quotes if q[368:432] != data)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(1, 7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
