# SPDX-License-Identifier: Apache-2.0
"""configfs-tsm and the RTMR files on trees that behave as the kernel documents them."""

import errno
import hashlib
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from platform_fakes import MRTD, SNP_MEASUREMENT, RtmrTree, TsmTree

from tightseal.errors import Code, PlatformError, SettingsError
from tightseal.platform.configfs import ConfigfsTsm, TsmProvider
from tightseal.platform.files import Retry
from tightseal.platform.rtmr import extend_rtmr, read_rtmr
from tightseal.platform.selfview import read_td_quote

REPORT_DATA = bytes(range(64))


def tsm(
    tree: TsmTree,
    *,
    provider: TsmProvider | None = None,
    privlevel: int | None = None,
    waits: list[float] | None = None,
    unique: Callable[[], str] | None = None,
) -> ConfigfsTsm:
    names = (f"{n:04x}" for n in itertools.count())
    return ConfigfsTsm(
        Path(TsmTree.root),
        provider=provider,
        privlevel=privlevel,
        files=tree,
        sleep=(lambda _: None) if waits is None else waits.append,
        unique=unique or (lambda: next(names)),
    )


def test_td_quote_and_no_folder_left() -> None:
    tree = TsmTree()
    assert read_td_quote(tsm(tree).evidence(REPORT_DATA)).report_data == REPORT_DATA
    assert tree.written == [("inblob", REPORT_DATA)]
    assert tree.folders == {}
    assert not tree.open_fds


def test_snp_evidence_is_the_report_then_the_certificates() -> None:
    tree = TsmTree("sev_guest")
    evidence = tsm(tree).evidence(REPORT_DATA)
    assert len(evidence) == 1184 + len(tree.certificates)
    assert evidence[80:144] == REPORT_DATA
    assert evidence[1184:] == tree.certificates


def test_snp_without_host_certificates_is_the_report_alone() -> None:
    tree = TsmTree("sev_guest")
    tree.certificates = b""
    assert len(tsm(tree).evidence(REPORT_DATA)) == 1184


def test_privlevel_is_written_as_text_before_the_inblob() -> None:
    tree = TsmTree("sev_guest")
    evidence = tsm(tree, privlevel=2).evidence(REPORT_DATA)
    assert tree.written == [("privlevel", b"2"), ("inblob", REPORT_DATA)]
    assert evidence[48] == 2


def test_own_measurement() -> None:
    assert tsm(TsmTree()).own_measurement() == ("tdx", MRTD)
    assert tsm(TsmTree("sev_guest")).own_measurement() == ("snp", SNP_MEASUREMENT)


@pytest.mark.parametrize("provider", ["tdx_guest", "sev_guest"])
def test_own_measurement_of_a_debug_guest_is_refused(provider: str) -> None:
    tree = TsmTree(provider)
    tree.debug = True
    with pytest.raises(PlatformError) as caught:
        tsm(tree).own_measurement()
    assert caught.value.code is Code.PROVIDER_DEBUG


def test_there_is_no_sealing_key() -> None:
    with pytest.raises(PlatformError) as caught:
        tsm(TsmTree()).sealing_key()
    assert caught.value.code is Code.SEALING_KEY_UNAVAILABLE


@pytest.mark.parametrize("chunk", [1, 100, 4096])
def test_partial_reads_are_put_together(chunk: int) -> None:
    tree = TsmTree("sev_guest", chunk=chunk)
    whole = tsm(TsmTree("sev_guest")).evidence(REPORT_DATA)
    assert tsm(tree).evidence(REPORT_DATA) == whole


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EINTR, errno.EAGAIN])
@pytest.mark.parametrize(
    "step",
    [("open", "outblob"), ("read", "outblob"), ("write", "inblob"), ("mkdir", "*")],
)
def test_transient_errors_are_repeated_from_a_new_request(
    number: int, step: tuple[str, str]
) -> None:
    tree = TsmTree()
    tree.faults[step] = [number, number]
    waits: list[float] = []
    quote = tsm(tree, waits=waits).evidence(REPORT_DATA)
    assert read_td_quote(quote).report_data == REPORT_DATA
    assert waits == [0.05, 0.1]
    assert tree.folders == {}


def test_a_folder_that_is_busy_is_still_removed() -> None:
    tree = TsmTree()
    tree.faults[("rmdir", "*")] = [errno.EBUSY, errno.EINTR]
    tsm(tree).evidence(REPORT_DATA)
    assert tree.folders == {}


def test_a_folder_that_cannot_be_removed_is_an_error() -> None:
    tree = TsmTree()
    tree.faults[("rmdir", "*")] = [errno.EBUSY] * 100
    with pytest.raises(PlatformError, match="cannot be removed"):
        tsm(tree).evidence(REPORT_DATA)
    assert sum(1 for op, _ in tree.calls if op == "rmdir") == Retry().attempts


def test_a_taken_name_is_replaced() -> None:
    tree = TsmTree()
    names = iter(["taken", "free"])
    tree.mkdir(f"{TsmTree.root}/tightseal-taken")
    tsm(tree, unique=lambda: next(names)).evidence(REPORT_DATA)
    assert list(tree.folders) == [f"{TsmTree.root}/tightseal-taken"]


def test_another_writer_is_noticed_and_the_request_made_anew() -> None:
    tree = TsmTree()
    tree.intruders = 2
    quote = tsm(tree).evidence(REPORT_DATA)
    assert read_td_quote(quote).report_data == REPORT_DATA
    assert tree.intruders == 0


def test_another_writer_who_never_stops_ends_in_an_error() -> None:
    tree = TsmTree()
    tree.intruders = 1000
    with pytest.raises(PlatformError, match="another writer"):
        tsm(tree).evidence(REPORT_DATA)
    assert tree.folders == {}


def _absent(tree: TsmTree) -> None:
    tree.present = False


def _unknown_provider(tree: TsmTree) -> None:
    tree.provider = "arm_cca_guest"


def _oversized(tree: TsmTree) -> None:
    tree.outblob_size = 1 << 20


def _wrong_report_data(tree: TsmTree) -> None:
    tree.wrong_report_data = True


def _fault(operation: str, name: str, number: int) -> Callable[[TsmTree], None]:
    def apply(tree: TsmTree) -> None:
        tree.faults[(operation, name)] = [number] * 100

    return apply


CASES = [
    ("no_provider", _absent, "platform_unsupported", "tdx_guest or sev_guest loaded"),
    ("not_mounted", _fault("mkdir", "*", errno.ENOENT), "platform_unsupported", ""),
    ("not_root", _fault("mkdir", "*", errno.EACCES), "platform_failed", "root"),
    ("provider_unknown", _unknown_provider, "platform_unsupported", "arm_cca"),
    ("oversized", _oversized, "platform_failed", "32768"),
    ("other_report_data", _wrong_report_data, "platform_failed", "other report data"),
    (
        "always_busy",
        _fault("read", "outblob", errno.EBUSY),
        "platform_failed",
        "flight",
    ),
    ("no_qgs", _fault("read", "outblob", errno.ETIMEDOUT), "platform_failed", "quote"),
    ("io_error", _fault("read", "outblob", errno.EIO), "platform_failed", "EIO"),
]


@pytest.mark.parametrize(
    ("defect", "code", "words"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
def test_refused(defect: Callable[[TsmTree], None], code: str, words: str) -> None:
    tree = TsmTree()
    defect(tree)
    with pytest.raises(PlatformError) as caught:
        tsm(tree).evidence(REPORT_DATA)
    assert caught.value.code.value == code
    assert words in caught.value.detail
    assert tree.folders == {}
    assert not tree.open_fds


def test_busy_for_ever_ends_within_bounds() -> None:
    tree = TsmTree()
    tree.faults[("read", "outblob")] = [errno.EBUSY] * 1000
    waits: list[float] = []
    with pytest.raises(PlatformError):
        tsm(tree, waits=waits).evidence(REPORT_DATA)
    assert len(waits) == Retry().attempts - 1
    assert max(waits) <= Retry().max_delay


def test_the_expected_provider_must_answer() -> None:
    with pytest.raises(PlatformError, match="sev_guest"):
        tsm(TsmTree("tdx_guest"), provider=TsmProvider.SNP).evidence(REPORT_DATA)


def test_privlevel_has_no_meaning_for_a_td() -> None:
    with pytest.raises(PlatformError, match="privlevel is for SNP"):
        tsm(TsmTree("tdx_guest"), privlevel=0).evidence(REPORT_DATA)


def test_privlevel_below_the_floor() -> None:
    tree = TsmTree("sev_guest")
    tree.floor = 2
    with pytest.raises(PlatformError, match="privlevel_floor"):
        tsm(tree, privlevel=0).evidence(REPORT_DATA)


@pytest.mark.parametrize("privlevel", [-1, 4])
def test_privlevel_out_of_range(privlevel: int) -> None:
    with pytest.raises(SettingsError):
        tsm(TsmTree(), privlevel=privlevel)


@pytest.mark.parametrize("length", [0, 63, 65])
def test_report_data_of_another_length_is_refused(length: int) -> None:
    tree = TsmTree()
    with pytest.raises(PlatformError):
        tsm(tree).evidence(bytes(length))
    assert tree.calls == []


def test_rtmr_extends_as_the_register_does() -> None:
    tree = RtmrTree()
    event = hashlib.sha384(b"container").digest()
    extend_rtmr(3, event, files=tree)
    assert read_rtmr(3, files=tree) == hashlib.sha384(bytes(48) + event).digest()
    assert read_rtmr(2, files=tree) == bytes(48)


@pytest.mark.parametrize(
    ("index", "length"), [(3, 0), (3, 47), (3, 49), (-1, 48), (4, 48)]
)
def test_rtmr_refused_before_any_write(index: int, length: int) -> None:
    tree = RtmrTree()
    with pytest.raises(PlatformError):
        extend_rtmr(index, bytes(length), files=tree)
    assert tree.calls == []


def test_an_interrupted_extension_is_never_repeated() -> None:
    tree = RtmrTree()
    tree.faults[("write", "rtmr3:sha384")] = [errno.EINTR]
    with pytest.raises(PlatformError, match="EINTR"):
        extend_rtmr(3, bytes(48), files=tree)
    assert sum(1 for op, _ in tree.calls if op == "write") == 1


def test_rtmr_files_are_absent_on_older_kernels() -> None:
    tree = RtmrTree()
    tree.faults[("open", "rtmr3:sha384")] = [errno.ENOENT]
    with pytest.raises(PlatformError) as caught:
        extend_rtmr(3, bytes(48), files=tree)
    assert caught.value.code is Code.PLATFORM_UNSUPPORTED
