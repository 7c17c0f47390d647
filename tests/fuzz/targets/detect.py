# SPDX-License-Identifier: Apache-2.0
"""Evidence of any kind, as binary, hex or base64."""

import base64

from fuzz_scenes import cast

from tightseal.evidence.detect import decode_text, detect
from tightseal.evidence.inspect import inspect_evidence
from tightseal_sim.amd import AmdWorld
from tightseal_sim.amd.bench import RUNTIME_CLAIMS, Bench

BENCH = Bench(AmdWorld(None, bytes(32), rsa_bits=2048), "Milan", 1_780_000_000)


def seeds() -> list[bytes]:
    quote = cast().drafts[0].evidence()[:800]
    return [
        quote,
        quote.hex().encode(),
        b"0x" + quote.hex().upper().encode(),
        base64.encodebytes(quote),
        base64.urlsafe_b64encode(quote).rstrip(b"="),
        BENCH.report,
        BENCH.report.hex().encode(),
        BENCH.guest.hcl_evidence(RUNTIME_CLAIMS),
    ]


def one(data: bytes) -> None:
    found = decode_text(data)
    detect(found)
    # What is evidence already is taken as it is.
    assert decode_text(found) == found
    assert decode_text(found.hex().encode()) == found
    inspect_evidence(found)
