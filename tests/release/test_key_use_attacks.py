# SPDX-License-Identifier: Apache-2.0
"""Uses that were changed, moved, repeated, or were of no form."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from release_rig import NOW
from rooted_rig import Rooted, document_of, rooted
from use_support import (
    KEYS,
    MESSAGE,
    SIGN,
    Roots,
    changed,
    half,
    kept,
    once,
    refusal,
    signing,
    text,
)

from tightseal.errors import Code, TightsealError
from tightseal.guest.using import signature_of
from tightseal.model.canonical import labelled
from tightseal.model.keypath import KeyPart, KeyRequest, KeyType
from tightseal.model.keyuse import MAX_USE_INPUT_BYTES, KeyUse
from tightseal.model.labels import Label
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.world import World


@pytest.fixture(scope="module")
def world() -> World:
    return World.in_memory(b"uses of keys".ljust(32, b"\0"))


@pytest.fixture(scope="module")
def td(world: World) -> SimTd:
    return world.intel.platform("one").launch_td(TdImage())


@pytest.fixture
def found(world: World, td: SimTd, tmp_path: Path) -> Iterator[Rooted]:
    with rooted(world, tmp_path) as made:
        made.roots = Roots()
        made.publish(document_of(world, td, key=KEYS))
        yield made


# -- the form ---------------------------------------------------------------------


FORMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "input_too_long": lambda k: k["use"].update(
        input=text(bytes(MAX_USE_INPUT_BYTES + 1))
    ),
    "input_missing": lambda k: k["use"].pop("input"),
    "operation_unknown": lambda k: k["use"].update(operation="decrypt"),
    "field_unknown": lambda k: k["use"].update(hash="sha512"),
    "context_of_a_signature": lambda k: k["use"].update(context=text(b"c")),
    "context_too_long": lambda k: k["use"].update(
        operation="unwrap", input=text(bytes(80)), context=text(bytes(513))
    ),
    "envelope_too_short": lambda k: k["use"].update(
        operation="unwrap", input=text(bytes(63))
    ),
    "envelope_too_long": lambda k: k["use"].update(
        operation="unwrap", input=text(bytes(113))
    ),
    "peer_of_no_length": lambda k: k["use"].update(
        operation="agree", input=text(bytes(31))
    ),
    "public_part": lambda k: k.update(part="public"),
    "null": lambda k: k.update(use=None),
    "own_signature": lambda k: k["use"].update(
        input=text(labelled(Label.SIGN_ACTION, {"kind": "adopt"}))
    ),
    "own_short_label": lambda k: k["use"].update(
        input=text(b"\x82\x6ctightseal/v2\x00")
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_use_of_another_form_is_malformed(
    found: Rooted, td: SimTd, form: str
) -> None:
    _, body = found.question(td, (signing(),))
    hostile = changed(body, lambda value: FORMS[form](value["keys"][0]))
    before = found.journal.latest()
    error = refusal(lambda: found.provider.keys(hostile, now=NOW))
    assert error.code is Code.REQUEST_MALFORMED
    assert found.journal.latest() == before


def test_the_longest_input_is_signed_whole(found: Rooted, td: SimTd) -> None:
    asked = signing(message=b"m" * MAX_USE_INPUT_BYTES)
    keys = found.ask(td, asked)
    signature_of(keys, asked, public=half(found, td, "ed25519"))
    longer = signing(message=b"m" * (MAX_USE_INPUT_BYTES + 1))
    assert refusal(lambda: found.ask(td, longer)).code is Code.REQUEST_MALFORMED


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x82",
        b"\x82\x78",
        b"tightseal/v1/signature/operator-action",
        b"\x83\x78\x26tightseal/v1/signature/operator-action",
        labelled(Label.SIGN_ACTION, None).replace(b"tightseal", b"other-one"),
    ],
)
def test_what_only_looks_like_a_label_is_signed(
    found: Rooted, td: SimTd, message: bytes
) -> None:
    asked = signing(message=message)
    signature_of(found.ask(td, asked), asked, public=half(found, td, "ed25519"))


@pytest.mark.parametrize("label", Label)
def test_nothing_under_any_label_of_tightseals_is_signed(label: Label) -> None:
    with pytest.raises(TightsealError, match="label") as caught:
        KeyUse(SIGN, labelled(label, [1, "value"])).check()
    assert caught.value.code is Code.REQUEST_MALFORMED


# -- one exchange -----------------------------------------------------------------


IN_FLIGHT: dict[str, Callable[[dict[str, Any]], object]] = {
    "input": lambda k: k["use"].update(input=text(b"pay somebody else")),
    "operation": lambda k: k["use"].update(
        operation="agree", input=text(b"\x09".ljust(32, b"\0"))
    ),
    "use_for_a_key": lambda k: k.pop("use"),
    "purpose": lambda k: k.update(purpose="p256"),
    "create": lambda k: k.update(create=True),
}


@pytest.mark.parametrize("change", IN_FLIGHT)
def test_a_use_that_was_changed_in_flight_is_not_what_evidence_says(
    found: Rooted, td: SimTd, change: str
) -> None:
    _, body = found.question(td, (signing(),))
    hostile = changed(body, lambda value: IN_FLIGHT[change](value["keys"][0]))
    error = refusal(lambda: found.provider.keys(hostile, now=NOW))
    assert error.code is Code.REPORT_DATA_MISMATCH


def test_a_key_that_was_asked_for_is_not_made_a_use(found: Rooted, td: SimTd) -> None:
    _, body = found.question(td, (KeyRequest("disk"),))
    use = {"operation": "sign", "input": text(MESSAGE)}
    hostile = changed(body, lambda value: value["keys"][0].update(use=use))
    error = refusal(lambda: found.provider.keys(hostile, now=NOW))
    assert error.code is Code.REPORT_DATA_MISMATCH


def test_a_use_in_another_exchange_is_refused(found: Rooted, td: SimTd) -> None:
    _, first = found.question(td, (signing(),))
    _, second = found.question(td, (KeyRequest("ed25519", part=KeyPart.PUBLIC),))
    keys = json.loads(first)["keys"]
    hostile = changed(second, lambda value: value.update(keys=keys))
    error = refusal(lambda: found.provider.keys(hostile, now=NOW))
    assert error.code is Code.REPORT_DATA_MISMATCH
    nonce = json.loads(second)["nonce"]
    moved = changed(first, lambda value: value.update(nonce=nonce))
    error = refusal(lambda: found.provider.keys(moved, now=NOW))
    assert error.code is Code.REPORT_DATA_MISMATCH


def test_a_retry_gets_the_same_answer_and_counts_once(
    found: Rooted, world: World, td: SimTd
) -> None:
    rules = kept(KeyType.ED25519, SIGN, usage=once())
    found.publish(document_of(world, td, key=[rules]))
    exchange, body = found.question(td, (signing(),))
    answers = {found.provider.keys(body, now=NOW) for _ in range(3)}
    assert len(answers) == 1
    exchange.open_response(answers.pop(), now=NOW)
    respaced = body.replace(b",", b", ", 1)
    error = refusal(lambda: found.provider.keys(respaced, now=NOW))
    assert error.code in {Code.NONCE_REPLAYED, Code.USAGE_LIMIT_REACHED}
    error = refusal(lambda: found.ask(td, signing()))
    assert error.code is Code.USAGE_LIMIT_REACHED


@pytest.mark.parametrize("limit", ["total", "per_hour"])
def test_every_use_counts_as_a_release(
    found: Rooted, world: World, td: SimTd, limit: str
) -> None:
    usage = {limit: 4, "without_anchor": "accept"}
    found.publish(
        document_of(world, td, key=[kept(KeyType.ED25519, SIGN, usage=usage)])
    )
    several = [signing(message=bytes([n])) for n in range(3)]
    found.ask(td, *several)
    error = refusal(lambda: found.ask(td, *several[:2]))
    assert error.code is Code.USAGE_LIMIT_REACHED
    assert "2 at once" in error.detail
    half(found, td, "ed25519")
    found.ask(td, several[0])
    error = refusal(lambda: found.ask(td, several[0]))
    assert error.code is Code.USAGE_LIMIT_REACHED


def test_a_closed_window_closes_uses_too(
    found: Rooted, world: World, td: SimTd
) -> None:
    windows = {"windows": [{"until": "2026-01-01T00:00:00Z"}]}
    found.publish(
        document_of(world, td, key=[kept(KeyType.ED25519, SIGN, usage=windows)])
    )
    assert refusal(lambda: found.ask(td, signing())).code is Code.USAGE_WINDOW_CLOSED
    half(found, td, "ed25519")
