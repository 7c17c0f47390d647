# SPDX-License-Identifier: Apache-2.0
"""What crosses in a handoff, and what is kept of it; the first byte says which."""

import sys
from pathlib import Path

KEY_TESTS = str(Path(__file__).resolve().parents[2] / "keys")
if KEY_TESTS not in sys.path:
    sys.path.insert(0, KEY_TESTS)

from keyring_support import (  # noqa: E402 (a folder of tests, named above)
    NOW,
    TERMS,
    FakeSlot,
    Machine,
    made,
)

from tightseal.keys.keyring import (  # noqa: E402
    decode_handed,
    hand_over,
    rotate,
    take_over,
)
from tightseal.model.exchange import Kem, PolicyInForce  # noqa: E402
from tightseal.model.handoff import HandoffBody  # noqa: E402
from tightseal.model.provider import ProviderIdentity  # noqa: E402
from tightseal.model.state import Record  # noqa: E402
from tightseal.model.wire import decode_json, encode_json  # noqa: E402
from tightseal.model.wire_handoff import (  # noqa: E402
    MAX_CONFIRM_BYTES,
    ConfirmRequest,
    HandoffRequest,
    HandoffResponse,
    ParsedConfirm,
    ParsedHandoff,
)
from tightseal.release.handoffs import Handoff, HandoffState  # noqa: E402
from tightseal.release.sharing import SharedCopy  # noqa: E402

SLOT = FakeSlot(machine=Machine(b"m" * 32))
KEYRING = rotate(made(SLOT), now=NOW)
KINDS = ("request", "response", "confirmation", "payload", "record", "copy")
JOINER = ProviderIdentity("sgx", b"m" * 32, b"k" * 32, b"r" * 32, b"s" * 64)


def _handoff() -> Handoff:
    return Handoff(
        state=HandoffState.SENT,
        platform=b"p" * 20,
        transcript_hash=b"t" * 64,
        confirm_key=b"c" * 32,
        joiner=JOINER.as_value(),
        tenant="acme",
        slots=(b"s" * 16,),
        changed_at=NOW,
    )


def seeds() -> list[bytes]:
    request = ParsedHandoff(
        nonce=b"n" * 56,
        binding_key_hash=b"h" * 32,
        joiner=JOINER,
        invitation=b"{}",
        evidence=b"evidence",
        kem=Kem.X25519,
        recipient_key=b"r" * 32,
        confirm_key=b"c" * 32,
        rehearsal=False,
    )
    body = HandoffBody(
        transcript_hash=b"t" * 64,
        envelope=b"e" * 80,
        payload=b"payload",
        policy=PolicyInForce(7, b"d" * 32),
        entry_id=b"i" * 16,
        issued_at=NOW,
    )
    confirm = ParsedConfirm(b"i" * 16, b"t" * 64, b"keyring", (b"s" * 16,), b"g" * 64)
    whole, branch = (hand_over(KEYRING, tenant=t)[0].encode() for t in (None, "acme"))
    bodies = (
        encode_json(HandoffRequest.of(request)),
        encode_json(HandoffResponse.of(body, signature=b"g" * 64)),
        encode_json(ConfirmRequest.of(confirm)),
        whole,
        _handoff().encode(),
        SharedCopy.of(KEYRING.seal(), 2).encode(),
    )
    return [
        *(bytes([at]) + body for at, body in enumerate(bodies)),
        bytes([3]) + branch,
    ]


def one(data: bytes) -> None:
    kind, body = KINDS[data[0] % len(KINDS)] if data else KINDS[0], data[1:]
    if kind == "request":
        request = decode_json(body, HandoffRequest).parsed()
        assert HandoffRequest.of(request).parsed() == request
    elif kind == "response":
        response = decode_json(body, HandoffResponse).parsed()
        again = HandoffResponse.of(response.body, signature=response.signature)
        assert again.parsed() == response
    elif kind == "confirmation":
        confirm = decode_json(body, ConfirmRequest, max_bytes=MAX_CONFIRM_BYTES)
        assert ConfirmRequest.of(confirm.parsed()).parsed() == confirm.parsed()
    elif kind == "payload":
        handed = decode_handed(body)
        assert handed.encode() == body
        key = KEYRING.key
        take_over(handed, key, terms=TERMS, slot_keys=[SLOT], label="here", now=NOW)
    elif kind == "record":
        found = Handoff.decode(body)
        assert Handoff.decode(found.encode()) == found
    else:
        record = Record("keyring-copy", "x", body, 1)
        found_copy = SharedCopy.decode(record)
        assert found_copy.encode() == body
        assert len(found_copy.names()) <= 1 + (found_copy.size // 1024)
