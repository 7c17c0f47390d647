# SPDX-License-Identifier: Apache-2.0
"""Wrapped purposes: what documents may say, and what requests may ask."""

from typing import Any

import pytest
from policy_support import (
    HEAD,
    INTEL,
    KEY,
    NOW,
    ask,
    circumstances,
    document,
    require_refused,
    td,
)

from tightseal.errors import Code, PolicyError
from tightseal.model.generation import GenerationName, Generations
from tightseal.model.grant import WrappedUse
from tightseal.model.keypath import KeyPart, KeyRequest, ProtocolClass
from tightseal.model.usage import key_record, wrapped_record
from tightseal.policy.compile import load_policy
from tightseal.policy.engine import explain
from tightseal.policy.published import grant_published

WRAPPED = 'source = "wrapped"'
PAIR = f'{WRAPPED}\ntype = "ed25519"'
MAKE = KeyRequest("disk", create=True)
OPEN = KeyRequest("disk")
IMPORT = KeyRequest("disk", create=True, imported=b"c" * 64)

REFUSED = {
    "measured": (HEAD.replace("named", "measured"), "", "source", "only names"),
    "adopted": (HEAD, "adopted = true", "adopted", "either"),
    "legacy": (HEAD, 'protocols = ["v1", "legacy"]', "protocols", "create or open"),
    "previous": (HEAD, 'generations = "previous"', "generations", "the same under"),
    "another": (HEAD, "", "source", "invalid enum"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_wrapped_purpose_cannot_be(case: str) -> None:
    head, more, field, word = REFUSED[case]
    source = WRAPPED.replace("wrapped", "sealed") if case == "another" else WRAPPED
    line = 9 if more else 8
    text = f"{head}{KEY}{source}\n{more}"
    require_refused(text, f"policy:{line}:1", f"workload[0].key[0].{field}", word)


def record(label: str = "") -> str:
    return wrapped_record(
        tenant="default", workload="database", purpose="disk", label=label
    )


def granted(key: KeyRequest, rules: str, **where: Any) -> tuple[WrappedUse | None, ...]:
    grant = ask(
        td(),
        document(key=f'{rules}\nlabels = ["", "a"]'),
        keys=(key,),
        where=circumstances(**where),
    )
    assert len(grant.paths) == 1
    return grant.wrapped


def test_a_grant_names_the_record_of_each_label() -> None:
    assert granted(OPEN, WRAPPED) == (WrappedUse(record()),)
    assert granted(MAKE, WRAPPED) == (WrappedUse(record(), create=True),)
    assert granted(KeyRequest("disk", "a"), WRAPPED) == (WrappedUse(record("a")),)
    assert granted(IMPORT, f"{WRAPPED}\nimports = true") == (
        WrappedUse(record(), create=True, imported=True),
    )
    assert granted(OPEN, "") == (None,)
    assert granted(OPEN, 'source = "derived"') == (None,)
    same = key_record(tenant="default", workload="database", purpose="disk")
    assert len({same, record(), record("a")}) == 3


def refused(key: KeyRequest, rules: str, **where: Any) -> Code:
    with pytest.raises(PolicyError) as caught:
        granted(key, rules, **where)
    return caught.value.code


@pytest.mark.parametrize(
    ("rules", "key"),
    [
        ("", MAKE),
        ('type = "ed25519"', MAKE),
        (PAIR, KeyRequest("disk", part=KeyPart.PUBLIC, create=True)),
    ],
    ids=["derived", "derived_pair", "public_part"],
)
def test_only_the_private_part_of_what_is_wrapped_is_created(
    rules: str, key: KeyRequest
) -> None:
    assert refused(key, rules) is Code.CREATE_NOT_ALLOWED


def test_a_create_needs_what_an_open_needs() -> None:
    long = KeyRequest("disk", length=64, create=True)
    assert refused(long, WRAPPED) is Code.KEY_LENGTH_NOT_ALLOWED
    label = KeyRequest("disk", "b", create=True)
    assert refused(label, WRAPPED) is Code.KEY_LABEL_NOT_ALLOWED
    public = f'{PAIR}\nparts = ["public"]'
    assert refused(MAKE, public) is Code.KEY_PART_NOT_ALLOWED
    window = f"{WRAPPED}\nusage.windows = [{{ until = 2026-09-01T00:00:00Z }}]"
    assert refused(MAKE, window) is Code.USAGE_WINDOW_CLOSED
    legacy = {"protocol_class": ProtocolClass.LEGACY}
    assert refused(OPEN, WRAPPED, **legacy) is Code.PROTOCOL_NOT_ALLOWED


@pytest.mark.parametrize("asked", [GenerationName.PREVIOUS, 4, 5, 99])
def test_a_wrapped_key_has_no_other_generations(asked: GenerationName | int) -> None:
    generations = Generations(5, 4, frozenset({4, 5}))
    for create in (False, True):
        key = KeyRequest("disk", generation=asked, create=create)
        code = refused(key, WRAPPED, generations=generations)
        assert code is Code.GENERATION_NOT_ALLOWED
    grant = ask(
        td(),
        document(key=WRAPPED),
        where=circumstances(generations=generations),
    )
    assert grant.paths[0].generation == 5


def test_a_create_is_counted_like_an_open() -> None:
    rules = f"{WRAPPED}\nusage.total = 3"
    for key in (MAKE, OPEN):
        grant = ask(td(), document(key=rules), keys=(key,))
        assert [demand.purpose for demand in grant.usage] == ["disk"]


def test_a_published_half_is_opened_and_never_created() -> None:
    grant = grant_published(
        load_policy(document(key=f"{PAIR}\npublished = true")),
        tenant="default",
        workload="database",
        purpose="disk",
        label="",
        circumstances=circumstances(provider_domain=INTEL),
        now=NOW,
    )
    assert grant.wrapped == (WrappedUse(record()),)


def test_an_explanation_says_that_the_release_will_look() -> None:
    for key, expected in ((OPEN, "it was created"), (MAKE, "there is none yet")):
        told = explain(
            td(),
            keys=(key,),
            policy=load_policy(document(key=WRAPPED)),
            circumstances=circumstances(),
            now=NOW,
        )
        assert told.granted
        (note,) = [r for r in told.reasons if r.rule == "key of disk"]
        assert (note.expected, note.got) == (expected, "looked up at the release")
