# SPDX-License-Identifier: Apache-2.0
"""What the fuzzers start from: drafts of quotes with their collateral.

A draft of the simulated world is kept in parts, so that whatever is changed can be
signed again by whoever signs it in life, and the checks behind the signatures are
reached. Drafts of real evidence are whole, and can only be spoiled as bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from tightseal.collateral.bundle import intel_from_json
from tightseal.evidence.roots import VENDOR_ROOTS, simulated_root
from tightseal.model.claims import TcbStatus, Tee
from tightseal.model.collateral import IntelCollateral
from tightseal.model.roots import TrustedRoot
from tightseal_sim.defects import intel_cases
from tightseal_sim.defects.bench import Bench
from tightseal_sim.intel.collateral import CollateralParts
from tightseal_sim.intel.pki import Authority
from tightseal_sim.intel.quote import QuoteForm, QuoteParts, assemble
from tightseal_sim.world import World

__all__ = ["NOW", "Cast", "Draft", "QuoteEdit", "cast", "real_drafts", "sim_drafts"]

NOW: Final = 1_790_000_000
_SEED: Final = b"tightseal fuzzing".ljust(32, b"\0")
_ADVISORY: Final = ("INTEL-SA-99900",)

QuoteEdit = Callable[[bytes], bytes]
CollateralEdit = Callable[[IntelCollateral], IntelCollateral]


@dataclass
class Draft:
    """Evidence and collateral that are not finished yet.

    Attributes:
        name: where it comes from.
        root: the only root that is trusted.
        now: Unix seconds.
        parts, collateral_parts: before signing; ``None`` for real evidence.
        quote, collateral: whole; only where there are no parts.
        quote_edits, collateral_edits: made on the whole, in order.
        steps: what was done to it, for people.
    """

    name: str
    root: TrustedRoot
    now: int
    parts: QuoteParts | None = None
    collateral_parts: CollateralParts | None = None
    quote: bytes = b""
    collateral: IntelCollateral | None = None
    quote_edits: list[QuoteEdit] = field(default_factory=list)
    collateral_edits: list[CollateralEdit] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    def fresh(self) -> Draft:
        """A copy that can be spoiled."""
        return replace(self, quote_edits=[], collateral_edits=[], steps=[])

    def evidence(self) -> bytes:
        """The quote, signed and then edited."""
        data = self.quote if self.parts is None else assemble(self.parts)
        for edit in self.quote_edits:
            data = edit(data)
        return data

    def whole_collateral(self) -> IntelCollateral:
        """The collateral, signed and then edited."""
        given = self.collateral
        if self.collateral_parts is not None:
            given = self.collateral_parts.assemble()
        assert given is not None
        for edit in self.collateral_edits:
            given = edit(given)
        return given


@dataclass(frozen=True)
class Cast:
    """Who can sign, and what lies about in the simulated world."""

    bench: Bench
    drafts: tuple[Draft, ...]

    @property
    def signers(self) -> tuple[Authority, ...]:
        """Everyone with a key, trusted for this or that or for nothing."""
        intel = self.bench.intel
        return (
            intel.root,
            *intel.pck_cas.values(),
            intel.tcb_signing,
            self.bench.platform.pck,
            self.bench.other_platform.pck,
            self.bench.attacker.root,
            self.bench.attacker.tcb_signing,
        )


def _state(bench: Bench, name: str, change: Callable[[Bench], object]) -> list[Draft]:
    """Both TEEs in a world in which something was published."""
    twin = Bench(bench.world, bench.now)
    old = twin.td.quote_parts(bytes(64), form=QuoteForm.V5_TD15)
    change(twin)
    tdx, sgx = twin.collateral(Tee.TDX), twin.collateral(Tee.SGX)
    return [
        _draft(twin, f"{name}/tdx", twin.td_parts(), tdx),
        _draft(twin, f"{name}/td15", twin.td_parts(QuoteForm.V5_TD15), tdx),
        _draft(twin, f"{name}/td15-older", old, tdx),
        _draft(twin, f"{name}/sgx", twin.sgx_parts(), sgx),
    ]


def _draft(
    bench: Bench, name: str, parts: QuoteParts, collateral: CollateralParts
) -> Draft:
    return Draft(
        name=name,
        root=bench.intel.trusted_root,
        now=bench.now,
        parts=parts,
        collateral_parts=collateral,
    )


def _relaunch(bench: Bench) -> None:
    bench.intel.publish_recovery(_ADVISORY, tdx_module=True)
    bench.platform.tdx_module_update()


@lru_cache(maxsize=1)
def cast() -> Cast:
    """The simulated world of the fuzzers; the same in every process."""
    bench = Bench(World.in_memory(_SEED), NOW)
    drafts = [
        _draft(bench, form.name.lower(), bench.td_parts(form), bench.collateral())
        for form in QuoteForm
        if form is not QuoteForm.V3_SGX
    ]
    sgx = bench.collateral(Tee.SGX)
    drafts.append(_draft(bench, "v3_sgx", bench.sgx_parts(), sgx))
    processor = bench.intel.platform("fuzz-processor", ca="processor")
    enclave = processor.load_enclave(bench.enclave.image)
    beside = bench.collateral(Tee.SGX, ca="processor")
    drafts.append(_draft(bench, "processor", enclave.quote_parts(bytes(64)), beside))
    for status in TcbStatus:
        if status is not TcbStatus.REVOKED and "Relaunch" not in status.value:
            drafts += _state(
                bench,
                status.value,
                lambda b, s=status: b.intel.publish_status(s, _ADVISORY),  # type: ignore[misc]
            )
    drafts += _state(
        bench, "recovery", lambda b: b.intel.publish_recovery(("INTEL-SA-99901",))
    )
    drafts += _state(bench, "relaunch", _relaunch)
    return Cast(bench, tuple(drafts))


def sim_drafts() -> tuple[Draft, ...]:
    """Whole and defective evidence of the simulated world, the former in parts."""
    spoiled = [
        Draft(
            name=f"case/{case.name}",
            root=case.root,
            now=case.now,
            quote=case.evidence,
            collateral=case.collateral,
        )
        for case in intel_cases(NOW, world=cast().bench.world)
    ]
    return (*cast().drafts, *spoiled)


def real_drafts(vectors: Path) -> tuple[Draft, ...]:
    """Real quotes with their collateral; none where the vectors are missing."""
    index = vectors / "dcap" / "INDEX.json"
    if not index.is_file():
        return ()
    found = []
    for entry in json.loads(index.read_text()):
        folder = vectors / "dcap" / entry["name"]
        if "verdict" not in entry or not (folder / "collateral.json").is_file():
            continue
        root = VENDOR_ROOTS.intel[0]
        if (folder / "root_ca.der").is_file():
            root = simulated_root((folder / "root_ca.der").read_bytes()).intel[0]
        found.append(
            Draft(
                name=f"real/{entry['name']}",
                root=root,
                now=entry["verdict"]["now"],
                quote=(folder / "quote.bin").read_bytes(),
                collateral=intel_from_json((folder / "collateral.json").read_bytes()),
            )
        )
    return tuple(found)
