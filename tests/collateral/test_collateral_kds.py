# SPDX-License-Identifier: Apache-2.0
"""The KDS client and its source over the real certificates of the corpus."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.applications import Starlette

from tightseal.collateral.bundle import snp_from_folder
from tightseal.collateral.cache import RecordCache
from tightseal.collateral.http import Asker
from tightseal.collateral.kds import KdsClient, chain_name, signer_name
from tightseal.collateral.source import CachedSource
from tightseal.errors import Code, CollateralError
from tightseal.model.claims import SnpTcb
from tightseal.model.collateral import SnpCertificates
from tightseal_sim.faults import Fault, Faults
from tightseal_sim.kds import kds_app

NOW = 1_750_000_000
CHIP = bytes(range(64))


class Shelf:
    """One chip's certificates."""

    def __init__(self, entry: dict[str, object], found: SnpCertificates) -> None:
        tcb = entry["vcek_tcb"]
        assert isinstance(tcb, dict)
        self.tcb = SnpTcb(tcb["bl"], tcb["tee"], tcb["snp"], tcb["ucode"])
        self.chip_id = bytes.fromhex(str(entry["chip_id"]))
        self.found = found

    def signer(self, *, product: str, chip_id: bytes, tcb: SnpTcb) -> bytes | None:
        known = (product, chip_id, tcb) == ("Milan", self.chip_id, self.tcb)
        return self.found.signer if known else None

    def issuers(self, *, product: str, vlek: bool) -> tuple[bytes, bytes] | None:
        del product, vlek
        assert self.found.root is not None
        return self.found.intermediate, self.found.root

    def crl(self, *, product: str, vlek: bool) -> bytes | None:
        del product, vlek
        return self.found.crl


@pytest.fixture
def shelf(vectors: Path) -> Shelf:
    entries = json.loads((vectors / "snp" / "INDEX.json").read_text())
    entry = next(e for e in entries if e["name"] == "snp-milan-trustee")
    return Shelf(entry, snp_from_folder(vectors / "snp" / "snp-milan-trustee"))


def test_certificates_come_once_and_then_from_the_cache(
    shelf: Shelf,
    serve: Callable[[Starlette], str],
    make_asker: Callable[..., Asker],
    tmp_path: Path,
) -> None:
    faults = Faults()
    url = serve(kds_app(shelf, faults=faults))
    client = KdsClient([url], asker=make_asker())
    source = CachedSource(cache=RecordCache(tmp_path), kds=client)
    query = {"product": "Milan", "chip_id": shelf.chip_id, "tcb": shelf.tcb}
    assert source.snp(**query, vlek=False, now=NOW) == shelf.found
    asked = len(faults.paths)
    assert asked == 3
    faults.plan(Fault.OUTAGE)
    assert source.snp(**query, vlek=False, now=NOW) == shelf.found
    assert len(faults.paths) == asked
    restarted = CachedSource(cache=RecordCache(tmp_path), kds=client)
    with pytest.raises(CollateralError):
        restarted.snp(**query, vlek=False, now=NOW)  # whether there is a CRL is unknown
    faults.clear()
    later = CachedSource(cache=RecordCache(tmp_path), kds=client)
    assert later.snp(**query, vlek=False, now=NOW) == shelf.found
    assert [path.rpartition("/")[2] for path in faults.paths] == ["crl"]


def test_an_unknown_chip_is_not_found(
    shelf: Shelf,
    serve: Callable[[Starlette], str],
    make_asker: Callable[..., Asker],
) -> None:
    client = KdsClient([serve(kds_app(shelf))], asker=make_asker())
    source = CachedSource(cache=RecordCache(None), kds=client)
    with pytest.raises(CollateralError) as caught:
        source.snp(product="Milan", chip_id=CHIP, tcb=shelf.tcb, vlek=False, now=NOW)
    assert caught.value.code is Code.COLLATERAL_NOT_FOUND


def test_a_vlek_cannot_be_asked_for_but_its_issuers_can(
    vectors: Path,
    shelf: Shelf,
    serve: Callable[[Starlette], str],
    make_asker: Callable[..., Asker],
) -> None:
    shelf.found = snp_from_folder(vectors / "snp" / "snp-vlek-trustee")
    client = KdsClient([serve(kds_app(shelf))], asker=make_asker())
    source = CachedSource(cache=RecordCache(None), kds=client)
    with pytest.raises(CollateralError, match="comes with the evidence"):
        source.snp(product="Milan", chip_id=CHIP, tcb=shelf.tcb, vlek=True, now=NOW)
    issuers = source.snp_issuers(product="Milan", vlek=True, now=NOW)
    assert issuers.intermediate == shelf.found.intermediate
    assert issuers.crl is None


def test_names_of_every_product() -> None:
    milan = signer_name(product="Milan", chip_id=CHIP, tcb=SnpTcb(3, 0, 8, 115))
    assert milan.subject == f"vcek:Milan:{CHIP.hex()}:3.0.8.115"
    for chip_id in (CHIP[:8], CHIP[:8] + bytes(56)):
        turin = signer_name(
            product="Turin", chip_id=chip_id, tcb=SnpTcb(1, 1, 4, 82, fmc=1)
        )
        assert turin.subject == f"vcek:Turin:{CHIP[:8].hex()}:1.1.4.82.1"


@pytest.mark.parametrize(
    ("product", "chip_id", "tcb"),
    [
        ("Rome", CHIP, SnpTcb(0, 0, 0, 0)),
        ("Milan/../..", CHIP, SnpTcb(0, 0, 0, 0)),
        ("Milan", bytes(64), SnpTcb(0, 0, 0, 0)),
        ("Milan", CHIP[:8], SnpTcb(0, 0, 0, 0)),
        ("Milan", CHIP, SnpTcb(0, 0, 0, 0, fmc=1)),
        ("Milan", CHIP, SnpTcb(0, 0, 0, 256)),
        ("Turin", CHIP, SnpTcb(0, 0, 0, 0, fmc=1)),
        ("Turin", CHIP[:8], SnpTcb(0, 0, 0, 0)),
    ],
)
def test_queries_that_cannot_be(product: str, chip_id: bytes, tcb: SnpTcb) -> None:
    with pytest.raises(CollateralError) as caught:
        signer_name(product=product, chip_id=chip_id, tcb=tcb)
    assert caught.value.code is Code.COLLATERAL_UNAVAILABLE


def test_a_chain_of_strangers_is_not_taken(
    vectors: Path,
    shelf: Shelf,
    serve: Callable[[Starlette], str],
    make_asker: Callable[..., Asker],
) -> None:
    stranger = (vectors / "snp" / "snp-milan-trustee" / "vcek.der").read_bytes()
    shelf.found = SnpCertificates(stranger, stranger, shelf.found.root)
    client = KdsClient(
        [serve(kds_app(shelf))], asker=make_asker(sleep=lambda _seconds: None)
    )
    with pytest.raises(CollateralError, match="certificate_chain_invalid"):
        client.fetch(
            chain_name("Milan", vlek=False), now=NOW, accept=lambda _part: None
        )
