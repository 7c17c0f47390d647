# SPDX-License-Identifier: Apache-2.0
"""``tightseal collateral`` from end to end, over a real loopback server."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from collateral_support import Recorded
from starlette.applications import Starlette

from tightseal.cli import main
from tightseal.collateral.bundle import intel_from_json
from tightseal_sim.faults import Fault, Faults
from tightseal_sim.pccs import pccs_app

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    for name in ("TIGHTSEAL_PCCS", "TIGHTSEAL_KDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TIGHTSEAL_CACHE", str(tmp_path / "cache"))

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main(["collateral", *(str(argument) for argument in arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return call


def serve_world(
    serve: Callable[[Starlette], str], world: Recorded, faults: Faults | None = None
) -> str:
    return serve(
        pccs_app(world, now=lambda: world.now, shared=world.shared, faults=faults)
    )


def test_fetch_for_a_quote_export_import_and_show(
    run: Run,
    october: Recorded,
    vectors: Path,
    serve: Callable[[Starlette], str],
    tmp_path: Path,
) -> None:
    quote = vectors / "dcap" / "gramine-skp-tdx-v4" / "quote.bin"
    pccs = serve_world(serve, october)
    at = ("--at", october.now)
    status, out, err = run("fetch", quote, "--pccs", pccs, *at, "--json")
    assert (status, err) == (0, "")
    rows: list[dict[str, Any]] = json.loads(out)["fetched"]
    assert [row["kind"] for row in rows] == [
        "tcb_info",
        "qe_identity",
        "pck_crl",
        "root_crl",
    ]
    assert {row["state"] for row in rows} == {"valid"}
    file = tmp_path / "bundle.json"
    status, out, _ = run("export", file, "--json")
    assert (status, json.loads(out)) == (0, {"written": str(file), "parts": 4})
    other = ("--cache", tmp_path / "other")
    status, out, _ = run("import", file, *other, *at, "--json")
    assert status == 0
    assert len(json.loads(out)["imported"]) == 4
    status, out, _ = run("export", "--fmspc", october.fmspc.hex(), *other, *at)
    assert status == 0
    assert intel_from_json(out) == october.collateral_
    status, out, _ = run("show", *other, "--at", october.now + 10 * 86_400)
    assert status == 0
    assert "4 parts, 4 valid" in out
    assert "due" in out
    status, out, _ = run("show", *other, "--at", october.latest + 400 * 86_400)
    assert "4 parts, 0 valid" in out


def test_fetch_by_family_and_then_all_that_is_cached(
    run: Run,
    october: Recorded,
    serve: Callable[[Starlette], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    faults = Faults()
    monkeypatch.setenv(
        "TIGHTSEAL_PCCS",
        "http://127.0.0.1:1, " + serve_world(serve, october, faults),
    )
    at = ("--at", october.now)
    assert run("fetch", "--fmspc", october.fmspc.hex(), *at)[0] == 0
    assert len(faults.paths) == 4
    status, out, _ = run("fetch", *at)
    assert status == 0
    assert "4 parts, 4 valid" in out
    assert len(faults.paths) == 8


def test_import_of_a_plain_collateral_file_and_of_an_older_one(
    run: Run, vectors: Path, october: Recorded, june: Recorded
) -> None:
    dcap = vectors / "dcap"
    new = dcap / "gramine-skp-tdx-v4" / "collateral.json"
    old = dcap / "phala-tdx-v4" / "collateral.json"
    assert run("import", new, "--at", october.now)[0] == 0
    status, out, err = run("import", old, "--at", june.now, "--json")
    assert status == 1
    assert {row["code"] for row in json.loads(out)["refused"]} == {
        "collateral_rollback"
    }
    assert err.count("refused: collateral_rollback") == 4


def test_import_without_a_time_keeps_to_the_floor_of_the_release(
    run: Run, vectors: Path
) -> None:
    status, _, err = run(
        "import", vectors / "dcap" / "phala-tdx-v4" / "collateral.json"
    )
    assert status == 1
    assert "the floor of this release" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("fetch",), "nothing to fetch"),
        (("fetch", "--fmspc", "xyz"), "12 hex digits"),
        (("fetch", "--fmspc", "00" * 6, "--ca", "other"), "platform or processor"),
        (("fetch", "--fmspc", "00" * 6, "--tee", "snp"), "tdx or sgx"),
        (("fetch", "--fmspc", "00" * 6), "no PCCS is configured"),
        (("fetch", "--fmspc", "00" * 6, "--pccs", "ftp://x"), "http(s)://"),
        (("fetch", "missing.bin"), "missing.bin"),
        (("export", "--fmspc", "00" * 6), "not in the cache"),
        (("import", "missing.json"), "missing.json"),
        (("show", "--at", "-5"), ""),
        (("show", "--nonsense"), ""),
        (("nonsense",), ""),
    ],
)
def test_what_cannot_be_asked_is_2_with_nothing_on_stdout(
    run: Run, arguments: tuple[str, ...], expected: str
) -> None:
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert expected in err
    assert err.startswith("error: ")


def test_an_outage_is_2_and_names_the_place(
    run: Run, october: Recorded, serve: Callable[[Starlette], str]
) -> None:
    faults = Faults()
    faults.plan(Fault.NOT_FOUND)
    pccs = serve_world(serve, october, faults)
    status, out, err = run(
        "fetch", "--fmspc", october.fmspc.hex(), "--pccs", pccs, "--at", october.now
    )
    assert (status, out) == (2, "")
    assert "collateral_not_found" in err
    assert f"{pccs}/tdx/certification/v4/tcb: HTTP 404" in err


def test_an_import_that_is_no_collateral_is_2(run: Run, tmp_path: Path) -> None:
    for text in ("", "[]", '{"format":"tightseal-collateral"}', "{}"):
        file = tmp_path / "file.json"
        file.write_text(text)
        status, out, err = run("import", file)
        assert (status, out) == (2, ""), text
        assert "collateral_unreadable" in err
