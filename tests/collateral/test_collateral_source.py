# SPDX-License-Identifier: Apache-2.0
"""Cache and source: outages, restarts, damage, crowds and going back."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dcap_qvl
import pytest
from collateral_shelf import Shelf, ask
from collateral_support import Recorded, Ticker
from starlette.applications import Starlette
from structlog.testing import capture_logs

from tightseal.collateral.bundle import (
    bundle_from_json,
    bundle_to_json,
    intel_to_json,
)
from tightseal.collateral.cache import RecordCache
from tightseal.collateral.guard import MemoryGuard
from tightseal.collateral.http import Asker
from tightseal.collateral.parts import Part, PartKind, PartName, make_part, split
from tightseal.collateral.pccs import PccsClient
from tightseal.collateral.source import CachedSource, SourceLimits
from tightseal.errors import Code, CollateralError
from tightseal.evidence.roots import VENDOR_ROOTS
from tightseal.model.claims import Tee
from tightseal_sim.faults import Fault, Faults
from tightseal_sim.pccs import pccs_app


def test_warm_cache_outlives_an_outage_a_restart_and_verifies(
    october: Recorded,
    vectors: Path,
    serve: Callable[[Starlette], str],
    make_asker: Callable[..., Asker],
    tmp_path: Path,
) -> None:
    faults = Faults()
    app = pccs_app(
        october, now=lambda: october.now, shared=october.shared, faults=faults
    )
    client = PccsClient([serve(app)], asker=make_asker())
    source = CachedSource(cache=RecordCache(tmp_path), pccs=client)
    first = ask(source, october)
    assert first == october.collateral_
    faults.plan(Fault.OUTAGE)
    asked = len(faults.paths)
    assert ask(source, october) is first
    restarted = CachedSource(cache=RecordCache(tmp_path), pccs=client)
    again = restarted.intel(
        fmspc=october.fmspc, ca=october.ca, tee=october.tee, now=october.latest
    )
    assert again == october.collateral_
    assert len(faults.paths) == asked
    quote = (vectors / "dcap" / "gramine-skp-tdx-v4" / "quote.bin").read_bytes()
    theirs = dcap_qvl.QuoteCollateralV3.from_json(intel_to_json(again))
    assert dcap_qvl.verify(quote, theirs, october.now).status
    with pytest.raises(CollateralError, match="HTTP 503"):
        ask(restarted, october, october.latest + 1)


def test_a_warm_answer_is_the_same_object_and_costs_microseconds(
    october: Recorded,
) -> None:
    shelf = Shelf(october)
    source = CachedSource(cache=RecordCache(None), pccs=shelf)
    first = ask(source, october)
    begin = time.perf_counter()
    for _ in range(2000):
        assert ask(source, october) is first
    assert (time.perf_counter() - begin) / 2000 < 0.0001
    assert len(shelf.asked) == 4


def test_families_share_crls_and_identities(
    october: Recorded, recorded: Callable[[str], Recorded]
) -> None:
    sibling = recorded("phala-tdx-v5-td15ex")
    assert sibling.fmspc == october.fmspc
    shelf = Shelf(october)
    source = CachedSource(cache=RecordCache(None), pccs=shelf)
    ask(source, october)
    unknown = {"fmspc": bytes(6), "ca": october.ca, "tee": october.tee}
    with pytest.raises(CollateralError) as caught:
        source.intel(**unknown, now=october.now)
    assert caught.value.code is Code.COLLATERAL_NOT_FOUND
    assert [name.kind for name in shelf.asked[4:]] == [PartKind.TCB_INFO]


def test_a_newer_crl_reaches_every_family_at_once(october: Recorded) -> None:
    shelf = Shelf(october)
    source = CachedSource(cache=RecordCache(None), pccs=shelf)
    first = ask(source, october)
    shelf.parts.clear()
    shelf.stock(october)
    for name in list(shelf.parts):
        source.renew(name, now=october.now)
    assert ask(source, october) is first


def test_going_back_is_refused_and_the_newer_stays(
    june: Recorded, october: Recorded, tmp_path: Path
) -> None:
    shelf = Shelf(october)
    source = CachedSource(cache=RecordCache(tmp_path), pccs=shelf)
    ask(source, october)
    shelf.stock(june)
    name = PartName(PartKind.TCB_INFO, f"tdx:{june.fmspc.hex()}")
    with pytest.raises(CollateralError) as caught:
        source.renew(name, now=june.now)
    assert caught.value.code is Code.COLLATERAL_ROLLBACK
    for part in split(june.collateral_):
        with pytest.raises(CollateralError) as caught:
            source.add(part, now=october.now)
        assert caught.value.code is Code.COLLATERAL_ROLLBACK
        with pytest.raises(CollateralError):
            RecordCache(tmp_path).put(part, now=october.now)
    assert ask(source, october) == october.collateral_


def test_the_guard_refuses_old_parts_in_an_empty_cache(
    june: Recorded, october: Recorded
) -> None:
    guard = MemoryGuard(floors=())
    guard.admit(
        tuple(part.facts("intel") for part in split(october.collateral_)), now=0
    )
    before = guard.marks
    source = CachedSource(
        cache=RecordCache(None, roots=VENDOR_ROOTS), pccs=Shelf(june), guard=guard
    )
    with pytest.raises(CollateralError) as caught:
        ask(source, june)
    assert caught.value.code is Code.COLLATERAL_ROLLBACK
    assert guard.marks == before
    fresh = CachedSource(
        cache=RecordCache(None, roots=VENDOR_ROOTS),
        pccs=Shelf(october),
        guard=MemoryGuard(),
    )
    assert ask(fresh, october) == october.collateral_


def records_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "rename", "gone"])
def test_damaged_records_are_logged_and_fetched_again(
    october: Recorded, tmp_path: Path, damage: str
) -> None:
    shelf = Shelf(october)
    ask(CachedSource(cache=RecordCache(tmp_path), pccs=shelf), october)
    files = records_in(tmp_path)
    assert len(files) == 4
    for path in files:
        data = path.read_bytes()
        if damage == "flip":
            path.write_bytes(data[:99] + bytes([data[99] ^ 1]) + data[100:])
        elif damage == "cut":
            path.write_bytes(data[:-10])
        elif damage == "empty":
            path.write_bytes(b"")
        elif damage == "gone":
            path.unlink()
    if damage == "rename":
        digests = [path.name.partition(".")[2] for path in files]
        for path, digest in zip(files, digests[1:] + digests[:1], strict=True):
            path.rename(tmp_path / f"{path.name.partition('.')[0]}.{digest}")
    with capture_logs() as logs:
        source = CachedSource(cache=RecordCache(tmp_path), pccs=shelf)
        assert ask(source, october) == october.collateral_
    assert len(shelf.asked) == 8
    events = [entry["event"] for entry in logs]
    assert events.count("collateral_fetched") == 4
    assert ("collateral_record_corrupt" in events) is (damage != "gone")
    restarted = CachedSource(cache=RecordCache(tmp_path))
    assert ask(restarted, october) == october.collateral_
    assert len(records_in(tmp_path)) == 4


def test_after_a_crash_between_two_files_the_newer_counts(
    june: Recorded, october: Recorded, tmp_path: Path
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, world in ((old, june), (new, october)):
        cache = RecordCache(folder)
        for part in split(world.collateral_):
            cache.put(part, now=world.now)
    for path in records_in(old):
        path.rename(new / path.name)
    (new / ".new-left-behind").write_bytes(b"half")
    for order in range(2):
        cache = RecordCache(new)
        parts = split(october.collateral_)
        found = [cache.get(part.name) for part in parts]
        assert [record.part for record in found if record] == list(parts), order
    names = {str(record.part.name) for record in RecordCache(new).records()}
    assert len(names) == 4


def test_a_disk_that_fails_is_logged_and_memory_serves_on(
    october: Recorded, tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    cache = RecordCache(folder)
    folder.rmdir()
    shelf = Shelf(october)
    source = CachedSource(cache=cache, pccs=shelf)
    with capture_logs() as logs:
        first = ask(source, october)
    assert "collateral_record_not_written" in [entry["event"] for entry in logs]
    shelf.down = True
    assert ask(source, october) is first


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CollateralError) as caught:
        RecordCache(tmp_path / "file" / "cache")
    assert caught.value.code is Code.COLLATERAL_UNREADABLE


def test_records_are_bounded_and_the_newest_stay(
    vectors: Path, dcap_names: list[str], tmp_path: Path
) -> None:
    del vectors, dcap_names
    cache = RecordCache(tmp_path, max_records=2)
    der = b""
    for n in range(5):
        name = PartName(PartKind.ROOT_CRL, f"crl:{n}")
        part = Part(name=name, body=der + bytes([n]), issued_at=n, expires_at=9)
        cache.put(part, now=n)
    kept = [record.part.name.subject for record in cache.records()]
    assert kept == ["crl:3", "crl:4"]
    assert len(records_in(tmp_path)) == 2


def test_a_flood_of_chips_leaves_the_other_vendor_alone() -> None:
    cache = RecordCache(None, max_records=2)
    root = PartName(PartKind.ROOT_CRL, "crl:root")
    cache.put(Part(name=root, body=b"x"), now=0)
    for n in range(9):
        name = PartName(PartKind.SNP_SIGNER, f"vcek:{n}")
        cache.put(Part(name=name, body=b"y"), now=n)
    assert cache.get(root) is not None
    assert len(cache.records()) == 3


def test_two_caches_on_one_folder_share_what_is_newer(
    june: Recorded, october: Recorded, tmp_path: Path
) -> None:
    one, two = RecordCache(tmp_path), RecordCache(tmp_path)
    for part in split(june.collateral_):
        one.put(part, now=june.now)
        assert two.get(part.name) is not None
    for part in split(october.collateral_):
        one.put(part, now=october.now)
    parts = {record.part for record in two.records()}
    assert {part.body for part in parts} == {
        part.body for part in split(october.collateral_)
    }


def test_what_was_answered_is_at_hand_and_asks_nobody(october: Recorded) -> None:
    shelf = Shelf(october)
    source = CachedSource(cache=RecordCache(None), pccs=shelf)
    wanted: dict[str, Any] = {
        "fmspc": october.fmspc,
        "ca": october.ca,
        "tee": october.tee,
    }
    assert not source.at_hand(**wanted, now=october.now)
    assert shelf.asked == []
    # Twice: what a fetch brought is put together anew by the next query.
    ask(source, october)
    ask(source, october)
    asked = len(shelf.asked)
    assert source.at_hand(**wanted, now=october.now)
    assert not source.at_hand(**wanted, now=october.now + 10**8)
    assert len(shelf.asked) == asked


def test_one_fetch_for_a_crowd(october: Recorded) -> None:
    shelf = Shelf(october)
    shelf.gate = threading.Event()
    source = CachedSource(cache=RecordCache(None), pccs=shelf)
    answers: list[object] = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(source, october)))
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    shelf.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(answers) == 16
    assert all(answer == october.collateral_ for answer in answers)
    assert len(shelf.asked) == 4


def test_a_crowd_shares_the_failure_too(october: Recorded) -> None:
    shelf = Shelf(october)
    shelf.gate, shelf.down = threading.Event(), True
    source = CachedSource(cache=RecordCache(None), pccs=shelf)
    codes: list[Code] = []

    def work() -> None:
        with pytest.raises(CollateralError) as caught:
            ask(source, october)
        codes.append(caught.value.code)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    shelf.gate.set()
    for thread in threads:
        thread.join(10)
    assert codes == [Code.COLLATERAL_UNAVAILABLE] * 8
    assert len(shelf.asked) == 1


def test_a_made_up_family_is_asked_for_once_a_while(
    october: Recorded, ticker: Ticker
) -> None:
    shelf = Shelf(october)
    source = CachedSource(cache=RecordCache(None), pccs=shelf, monotonic=ticker)
    ask(source, october)
    query = {"fmspc": b"made-x", "ca": "platform", "tee": Tee.TDX, "now": october.now}
    for _ in range(50):
        with pytest.raises(CollateralError) as caught:
            source.intel(**query)
        assert caught.value.code is Code.COLLATERAL_NOT_FOUND
    assert len(shelf.asked) == 5
    ticker.at += SourceLimits().not_found_seconds
    with pytest.raises(CollateralError):
        source.intel(**query)
    assert len(shelf.asked) == 6


def test_made_up_families_end_with_the_budget_and_known_ones_go_on(
    october: Recorded, ticker: Ticker
) -> None:
    shelf = Shelf(october)
    source = CachedSource(
        cache=RecordCache(None),
        pccs=shelf,
        limits=SourceLimits(burst=8, per_second=1.0),
        monotonic=ticker,
    )
    ask(source, october)
    for n in range(100):
        with pytest.raises(CollateralError):
            source.intel(
                fmspc=n.to_bytes(6, "big"),
                ca="platform",
                tee=Tee.TDX,
                now=october.now,
            )
    assert len(shelf.asked) == 4 + 7
    assert ask(source, october) == october.collateral_
    for part in shelf.parts:
        source.renew(part, now=october.now)
    ticker.at += 2
    for n in range(100, 110):
        with pytest.raises(CollateralError):
            source.intel(
                fmspc=n.to_bytes(6, "big"),
                ca="platform",
                tee=Tee.TDX,
                now=october.now,
            )
    assert len(shelf.asked) == 4 + 7 + 4 + 2


@pytest.mark.parametrize(
    "query",
    [
        {"fmspc": b"short", "ca": "platform", "tee": Tee.TDX},
        {"fmspc": bytes(6), "ca": "../platform", "tee": Tee.TDX},
        {"fmspc": bytes(6), "ca": "platform", "tee": Tee.SNP},
    ],
)
def test_queries_that_cannot_be_ask_nobody(query: dict[str, object]) -> None:
    shelf = Shelf()
    source = CachedSource(cache=RecordCache(None), pccs=shelf)
    with pytest.raises(CollateralError) as caught:
        source.intel(**query, now=0)
    assert caught.value.code is Code.COLLATERAL_UNAVAILABLE
    assert not shelf.asked


def test_without_a_service_the_error_says_so(october: Recorded) -> None:
    with pytest.raises(CollateralError, match="no PCCS is configured"):
        ask(CachedSource(cache=RecordCache(None)), october)


def test_a_root_crl_of_another_root_is_not_taken(
    october: Recorded, vectors: Path
) -> None:
    del vectors
    shelf = Shelf(october)
    name = PartName(PartKind.ROOT_CRL, "crl:root")
    body = bytearray(shelf.parts[name].body)
    body[-8] ^= 1
    shelf.parts[name] = make_part(name, bytes(body))
    source = CachedSource(cache=RecordCache(None), pccs=shelf)
    with pytest.raises(CollateralError) as caught:
        ask(source, october)
    assert caught.value.code is Code.CRL_SIGNATURE_INVALID


def test_export_and_import_carry_everything_and_never_go_back(
    june: Recorded, october: Recorded
) -> None:
    online = CachedSource(cache=RecordCache(None), pccs=Shelf(october))
    ask(online, october)
    text = bundle_to_json(tuple(record.part for record in online.cache.records()))
    offline = CachedSource(cache=RecordCache(None))
    for part in bundle_from_json(text):
        offline.add(part, now=october.now)
    assert ask(offline, october) == october.collateral_
    again = bundle_to_json(tuple(record.part for record in offline.cache.records()))
    assert again == text
    for part in bundle_from_json(bundle_to_json(split(june.collateral_))):
        with pytest.raises(CollateralError) as caught:
            offline.add(part, now=october.now)
        assert caught.value.code is Code.COLLATERAL_ROLLBACK
