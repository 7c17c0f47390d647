# SPDX-License-Identifier: Apache-2.0
"""Keys, events and Cedar that are refused, each pointing at line, column and field."""

import pytest
from policy_support import FF, HEAD, IMAGE, KEY, SGX, SNP, require_refused

# text, place, field, a word of the message
REFUSED: dict[str, tuple[str, str, str, str]] = {
    "pair_of_another_length": (
        HEAD + KEY + 'type = "ed25519"\nlength = 64',
        "policy:9:1",
        "workload[0].key[0].length",
        "expected 32",
    ),
    "pair_over_the_legacy_protocol": (
        HEAD + KEY + 'type = "ed25519"\nprotocols = ["v1", "legacy"]',
        "policy:9:1",
        "workload[0].key[0].protocols",
        "raw keys alone",
    ),
    "raw_public_part": (
        HEAD + KEY + 'parts = ["public"]',
        "policy:8:1",
        "workload[0].key[0].parts",
        "no public part",
    ),
    "derived_imported": (
        HEAD + KEY + "imports = true",
        "policy:8:1",
        "workload[0].key[0].imports",
        "only wrapped ones",
    ),
    "raw_used": (
        HEAD + KEY + 'uses = ["sign"]',
        "policy:8:1",
        "workload[0].key[0].uses",
        "raw cannot sign",
    ),
    "ed25519_that_agrees": (
        HEAD + KEY + 'type = "ed25519"\nuses = ["sign", "agree"]',
        "policy:9:1",
        "workload[0].key[0].uses",
        "ed25519 cannot agree, but sign",
    ),
    "x25519_that_signs": (
        HEAD + KEY + 'type = "x25519"\nuses = ["sign"]',
        "policy:9:1",
        "workload[0].key[0].uses",
        "x25519 cannot sign, but agree or unwrap",
    ),
    "p256_that_unwraps": (
        HEAD + KEY + 'type = "p256"\nuses = ["unwrap"]',
        "policy:9:1",
        "workload[0].key[0].uses",
        "p256 cannot unwrap",
    ),
    "agree_beside_unwrap": (
        HEAD + KEY + 'type = "x25519"\nuses = ["unwrap", "agree"]',
        "policy:9:1",
        "workload[0].key[0].uses",
        "agree opens all that unwrap opens",
    ),
    "use_unknown": (
        HEAD + KEY + 'type = "x25519"\nuses = ["decrypt"]',
        "policy:9:9",
        "workload[0].key[0].uses[0]",
        "invalid enum",
    ),
    "raw_published": (
        HEAD + KEY + "published = true",
        "policy:8:1",
        "workload[0].key[0].published",
        "no public part",
    ),
    "measured_published": (
        HEAD.replace("named", "measured") + KEY + 'type = "ed25519"\npublished = true',
        "policy:9:1",
        "workload[0].key[0].published",
        "only names",
    ),
    "published_without_its_part": (
        HEAD + KEY + 'type = "p256"\nparts = ["private"]\npublished = true',
        "policy:10:1",
        "workload[0].key[0].published",
        "leaves the public part out",
    ),
    "measured_adopted": (
        HEAD.replace("named", "measured") + KEY + "adopted = true",
        "policy:8:1",
        "workload[0].key[0].adopted",
        "only names",
    ),
    "usage_that_says_nothing": (
        HEAD + KEY + "usage = { without_anchor = 'accept' }",
        "policy:8:1",
        "workload[0].key[0].usage",
        "says nothing",
    ),
    "usage_of_zero": (
        HEAD + KEY + "usage = { per_hour = 0 }",
        "policy:8:11",
        "workload[0].key[0].usage.per_hour",
        ">= 1",
    ),
    "usage_above_what_is_counted": (
        HEAD + KEY + "usage = { per_hour = 1001 }",
        "policy:8:11",
        "workload[0].key[0].usage.per_hour",
        "<= 1000",
    ),
    "window_without_ends": (
        HEAD + KEY + "usage = { windows = [{}] }",
        "policy:8:22",
        "workload[0].key[0].usage.windows[0]",
        "from, until",
    ),
    "window_that_ends_before_it_begins": (
        HEAD
        + KEY
        + "usage.windows = [{ from = 2026-10-01T00:00:00Z, "
        + "until = 2026-09-01T00:00:00Z }]",
        "policy:8:49",
        "workload[0].key[0].usage.windows[0].until",
        "not after",
    ),
    "event_unknown": (
        HEAD + IMAGE + '[workload.image.events]\nimage = "ab"',
        "policy:10:1",
        "workload[0].image[0].events.image",
        "known are app-id",
    ),
    "event_of_another_tee": (
        SNP + IMAGE + '[workload.image.events]\napp-id = "ab"',
        "policy:9:1",
        "workload[0].image[0].events",
        "no event log",
    ),
    "event_all_zero": (
        HEAD + IMAGE + f'[workload.image.events]\napp-id = "{"00" * 20}"',
        "policy:10:1",
        "workload[0].image[0].events.app-id",
        "counts as absent",
    ),
    "event_as_a_number": (
        HEAD + IMAGE + "[workload.image.events]\napp-id = 7",
        "policy:10:1",
        "workload[0].image[0].events.app-id",
        "expected the hex",
    ),
    "event_under_a_mask": (
        HEAD
        + IMAGE
        + '[workload.image.events]\napp-id = { mask = "ff", expected = "01" }',
        "policy:10:1",
        "workload[0].image[0].events.app-id",
        "hex, or one_of",
    ),
    "event_one_of_nothing": (
        HEAD + IMAGE + "[workload.image.events]\napp-id = { one_of = [] }",
        "policy:10:12",
        "workload[0].image[0].events.app-id.one_of",
        "empty",
    ),
    "logged_digest_too_short": (
        HEAD
        + '[[workload.image]]\nlabel = "a"\nmeasurements = {}\n'
        + 'logged = [{ register = "rtmr1", digest = "ab" }]',
        "policy:9:33",
        "workload[0].image[0].logged[0].digest",
        "48 bytes",
    ),
    "logged_of_another_tee": (
        SGX
        + '[[workload.image]]\nlabel = "a"\nmeasurements = {}\n'
        + f'logged = [{{ register = "rtmr1", digest = "{FF}" }}]',
        "policy:9:1",
        "workload[0].image[0].logged",
        "no event log",
    ),
    "cedar_that_is_none": (
        HEAD + 'cedar = "allow all"',
        "policy:6:1",
        "workload[0].cedar",
        "not Cedar",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_place_and_field(name: str) -> None:
    require_refused(*REFUSED[name])
