# SPDX-License-Identifier: Apache-2.0
"""QE identities: their JSON, and a report judged by whatever they say."""

from fuzz_scenes import NOW, cast

from tightseal.evidence.intel.qe_identity import (
    parse_qe_identity,
    qe_level,
    require_identity,
)
from tightseal.model.claims import Tee
from tightseal_sim.intel.catalogue import qe_report
from tightseal_sim.intel.collateral import compact

REPORT = qe_report(Tee.TDX, bytes(16)).pack()


def seeds() -> list[bytes]:
    intel = cast().bench.intel
    found = [intel.qe_identity(tee, NOW) for tee in (Tee.SGX, Tee.TDX)]
    return [compact(identity.as_json()).encode() for identity in found]


def one(data: bytes) -> None:
    identity = parse_qe_identity(data.decode("utf-8", errors="replace"))
    require_identity(REPORT, identity)
    qe_level(REPORT, identity)
