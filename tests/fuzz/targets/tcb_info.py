# SPDX-License-Identifier: Apache-2.0
"""TCB info: its JSON, and the levels chosen from whatever it says."""

from contextlib import suppress

from fuzz_scenes import NOW, cast

from tightseal.collateral.wire import signed_text
from tightseal.errors import Code, EvidenceError, TightsealError
from tightseal.evidence.intel.pck import parse_pck_extension
from tightseal.evidence.intel.tcb import (
    merge,
    module_identity,
    module_level,
    platform_level,
    relaunch,
    require_module,
)
from tightseal.evidence.intel.tcb_info import parse_tcb_info
from tightseal.model.claims import Tee
from tightseal_sim.intel.collateral import compact

BENCH = cast().bench
PCK = parse_pck_extension(BENCH.platform.pck_fields.extension(), fault=EvidenceError)
SVNS = (bytes(16), bytes((6, 1, 3)).ljust(16, b"\0"), b"\xff" * 16)


def seeds() -> list[bytes]:
    fmspc = BENCH.platform.fmspc
    infos = [BENCH.intel.tcb_info(fmspc, tee, NOW) for tee in (Tee.SGX, Tee.TDX)]
    texts = [compact(info.as_json()).encode() for info in infos]
    wrapped = b'{"tcbInfo":' + texts[0] + b',"signature":"' + b"00" * 64 + b'"}'
    return [*texts, wrapped]


def one(data: bytes) -> None:
    with suppress(TightsealError):
        signed_text(data, name="tcbInfo", code=Code.TCB_INFO_MALFORMED)
    info = parse_tcb_info(data.decode("utf-8", errors="replace"))
    for svn in SVNS:
        with suppress(TightsealError):
            level = platform_level(info, PCK, svn if info.id == "TDX" else None)
            identity = module_identity(info, svn)
            require_module(identity, mr_signer_seam=bytes(48), seam_attributes=bytes(8))
            verdict = merge(level, module_level(identity, svn))
            relaunch(verdict, verdict)
