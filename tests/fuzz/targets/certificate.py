# SPDX-License-Identifier: Apache-2.0
"""Certificates that carry evidence, and what stands in their extensions."""

import sys
from contextlib import suppress
from pathlib import Path

TESTS = str(Path(__file__).resolve().parents[2])
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)

from certificate_maker import (  # noqa: E402
    CCC,
    DSTACK,
    GRAMINE,
    NULL,
    Key,
    attestation,
    attestation_v0,
    certificate,
    claims_buffer,
    packed,
    tagged,
    wrapped,
)
from tightseal.errors import TightsealError  # noqa: E402
from tightseal.evidence.attested_certificate import certificate_evidence  # noqa: E402
from tightseal.evidence.certificate import (  # noqa: E402
    check_own_signature,
    looks_like_certificate,
    pem_to_der,
    read_certificate,
)
from tightseal.evidence.dstack_certificate import dstack_evidence  # noqa: E402
from tightseal.model.tagged_evidence import decode_tagged  # noqa: E402
from tightseal_sim.intel.eventlog import runtime_event  # noqa: E402

QUOTE = b"quote"
BUFFER = claims_buffer(Key().spki)
TAGGED = tagged(QUOTE, BUFFER)
ATTESTATION = wrapped(attestation(QUOTE, [runtime_event("app-id", b"\1")]))
LOG = wrapped(packed(b'[{"imr":3}]'))


def seeds() -> list[bytes]:
    return [
        certificate([(GRAMINE, QUOTE), (CCC, TAGGED)], parameters=NULL),
        certificate([(f"{DSTACK}1", wrapped(QUOTE)), (f"{DSTACK}2", LOG)]),
        certificate([(f"{DSTACK}8", ATTESTATION)]),
        TAGGED,
        ATTESTATION,
        wrapped(attestation_v0(QUOTE, [runtime_event("app-id", b"\1")])),
        LOG,
    ]


def one(data: bytes) -> None:
    looks_like_certificate(data)
    with suppress(TightsealError):
        decode_tagged(data)
    with suppress(TightsealError):
        dstack_evidence({f"{DSTACK}8": data})
    with suppress(TightsealError):
        dstack_evidence({f"{DSTACK}1": wrapped(QUOTE), f"{DSTACK}2": data})
    read = read_certificate(pem_to_der(data))
    with suppress(TightsealError):
        check_own_signature(read)
    certificate_evidence(read)
