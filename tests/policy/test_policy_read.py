# SPDX-License-Identifier: Apache-2.0
"""Documents that are refused, each pointing at line, column and field."""

import tomllib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_support import (
    FF,
    HEAD,
    IMAGE,
    KEY,
    SGX,
    SNP,
    document,
    require_refused,
    value,
)

from tightseal.errors import Code, SettingsError
from tightseal.model.claims import MEASUREMENT_NAMES, Tee
from tightseal.policy import read
from tightseal.policy.compile import load_policy
from tightseal.policy.fields import MEASUREMENT_BYTES, all_names
from tightseal.policy.locate import Path, positions, show_path
from tightseal.policy.read import parse

# text, place, field, a word of the message
REFUSED: dict[str, tuple[str, str, str, str]] = {
    "not_toml": ("version = \n", "policy:1:11", "", "not TOML"),
    "version_missing": ("", "policy", "", "version"),
    "version_unknown": ("version = 2", "policy:1:1", "version", "invalid enum"),
    "unknown_key": (HEAD + "usage = 3", "policy:6:1", "workload[0].usage", "unknown"),
    "unknown_key_at_the_top": ("version=1\n x = 1", "policy:2:2", "x", "unknown"),
    "unknown_key_inline": (
        HEAD + 'tcb = { statuses = ["UpToDate"], per_hour = 3 }',
        "policy:6:34",
        "workload[0].tcb.per_hour",
        "unknown",
    ),
    "unknown_key_of_a_selector": (
        HEAD + IMAGE + f'mrtd = "{FF}"\nrtmr1 = {{ at_least = 2 }}',
        "policy:10:11",
        "workload[0].image[0].measurements.rtmr1.at_least",
        "unknown",
    ),
    "status_unknown": (
        HEAD + '[workload.tcb]\nstatuses = [\n  "UpToDate", # one\n  "Fine" ]',
        "policy:9:3",
        "workload[0].tcb.statuses[1]",
        "Fine",
    ),
    "status_revoked": (
        HEAD + 'tcb.statuses = ["Revoked"]',
        "policy:6:1",
        "workload[0].tcb.statuses",
        "never",
    ),
    "grace_revoked": (
        HEAD + 'tcb.grace = { statuses = ["Revoked"], until = 2026-01-01T00:00:00Z }',
        "policy:6:1",
        "workload[0].tcb.grace",
        "never",
    ),
    "grace_without_end": (
        HEAD + 'tcb.grace = { statuses = ["OutOfDate"] }',
        "policy:6:1",
        "workload[0].tcb.grace",
        "until",
    ),
    "not_hex": (
        HEAD + IMAGE + f'mrtd = "{FF}"\nrtmr1 = "XY"',
        "policy:10:1",
        "workload[0].image[0].measurements.rtmr1",
        "regex",
    ),
    "upper_case_hex": (
        HEAD + IMAGE + f'mrtd = "{FF.upper()}"',
        "policy:9:1",
        "workload[0].image[0].measurements.mrtd",
        "regex",
    ),
    "too_short": (
        HEAD + IMAGE + 'mrtd = "ff"',
        "policy:9:1",
        "workload[0].image[0].measurements.mrtd",
        "48 bytes",
    ),
    "all_zero": (
        HEAD + IMAGE + f'mrtd = "{"00" * 48}"',
        "policy:9:1",
        "workload[0].image[0].measurements.mrtd",
        "zero = true",
    ),
    "all_zero_in_one_of": (
        HEAD + IMAGE + f'mrtd = {{ one_of = ["{FF}", "{"00" * 48}"] }}',
        "policy:9:120",
        "workload[0].image[0].measurements.mrtd.one_of[1]",
        "all zero",
    ),
    "one_of_nothing": (
        HEAD + IMAGE + "mrtd = { one_of = [] }",
        "policy:9:10",
        "workload[0].image[0].measurements.mrtd.one_of",
        "empty",
    ),
    "one_of_twice": (
        HEAD + IMAGE + f'mrtd = {{ one_of = ["{FF}", "{FF}"] }}',
        "policy:9:10",
        "workload[0].image[0].measurements.mrtd.one_of",
        "twice",
    ),
    "two_forms": (
        HEAD + IMAGE + f'mrtd = {{ one_of = ["{FF}"], zero = true }}',
        "policy:9:1",
        "workload[0].image[0].measurements.mrtd",
        "expected one of",
    ),
    "mask_alone": (
        HEAD + IMAGE + f'mrtd = {{ mask = "{FF}" }}',
        "policy:9:1",
        "workload[0].image[0].measurements.mrtd",
        "mask with expected",
    ),
    "mask_that_says_nothing": (
        HEAD + IMAGE + f'xfam = {{ mask = "{"00" * 8}", expected = "{"00" * 8}" }}',
        "policy:9:10",
        "workload[0].image[0].measurements.xfam.mask",
        "everything fits",
    ),
    "mask_that_nothing_fits": (
        HEAD + IMAGE + f'xfam = {{ mask = "{"0f" * 8}", expected = "{"10" * 8}" }}',
        "policy:9:37",
        "workload[0].image[0].measurements.xfam.expected",
        "nothing fits",
    ),
    "minimum_of_a_digest": (
        HEAD + IMAGE + "rtmr1 = { minimum = 3 }",
        "policy:9:11",
        "workload[0].image[0].measurements.rtmr1.minimum",
        "has none",
    ),
    "minimum_of_zero": (
        SGX + IMAGE + "isv_svn = { minimum = 0 }",
        "policy:9:13",
        "workload[0].image[0].measurements.isv_svn.minimum",
        ">= 1",
    ),
    "minimum_out_of_range": (
        SGX + IMAGE + "isv_svn = { minimum = 65536 }",
        "policy:9:13",
        "workload[0].image[0].measurements.isv_svn.minimum",
        "can hold",
    ),
    "number_for_a_digest": (
        HEAD + IMAGE + "mrtd = 3",
        "policy:9:1",
        "workload[0].image[0].measurements.mrtd",
        "no number",
    ),
    "number_out_of_range": (
        SGX + IMAGE + "isv_svn = 65536",
        "policy:9:1",
        "workload[0].image[0].measurements.isv_svn",
        "can hold",
    ),
    "measurement_of_another_tee": (
        HEAD + IMAGE + f'mrenclave = "{"ff" * 32}"',
        "policy:9:1",
        "workload[0].image[0].measurements.mrenclave",
        "known are mrtd",
    ),
    "local_time": (
        HEAD + '[[workload.image]]\nlabel = "a"\nfrom = 2026-10-01T00:00:00\n',
        "policy:8:1",
        "workload[0].image[0].from",
        "timezone",
    ),
    "until_before_from": (
        HEAD
        + '[[workload.image]]\nlabel = "a"\nfrom = 2026-10-01T00:00:00Z\n'
        + "until = 2026-10-01T00:00:00Z\nmeasurements = {}",
        "policy:9:1",
        "workload[0].image[0].until",
        "not after",
    ),
    "year_that_no_zone_tells": (
        HEAD
        + '[[workload.image]]\nlabel = "a"\nuntil = 9999-12-31T23:59:59-12:00\n'
        + "measurements = {}",
        "policy:8:1",
        "workload[0].image[0].until",
        "year",
    ),
    "grace_that_ends_before_clocks": (
        HEAD + 'tcb.grace = { statuses = ["OutOfDate"], until = 0001-01-01T00:00:00Z }',
        "policy:6:41",
        "workload[0].tcb.grace.until",
        "year",
    ),
    "one_of_too_many": (
        SGX + IMAGE + f"isv_svn = {{ one_of = {list(range(65))} }}",
        "policy:9:13",
        "workload[0].image[0].measurements.isv_svn.one_of",
        "<= 64",
    ),
    "trust_domain_unknown": (
        HEAD + 'trust_domain = "arm"',
        "policy:6:1",
        "workload[0].trust_domain",
        "regex",
    ),
    "trust_domain_of_another_vendor": (
        HEAD + 'trust_domain = "amd"',
        "policy:6:1",
        "workload[0].trust_domain",
        "never",
    ),
    "platform_unknown": (
        HEAD + 'platform = "all"',
        "policy:6:1",
        "workload[0].platform",
        "invalid enum",
    ),
    "platform_empty": (
        HEAD + "platform = []",
        "policy:6:1",
        "workload[0].platform",
        "",
    ),
    "platform_without_id": (
        HEAD + "platform = [{}]",
        "policy:6:13",
        "workload[0].platform[0]",
        "ppid",
    ),
    "platform_all_zero": (
        HEAD + f'platform = [{{ ppid = "{"00" * 16}" }}]',
        "policy:6:15",
        "workload[0].platform[0].ppid",
        "names no machine",
    ),
    "platform_short": (
        HEAD + 'platform = [{ ppid = "ff" }]',
        "policy:6:15",
        "workload[0].platform[0].ppid",
        "16 bytes",
    ),
    "platform_of_another_tee": (
        SNP + f'platform = [{{ ppid = "{"ff" * 16}" }}]',
        "policy:6:15",
        "workload[0].platform[0].ppid",
        "none",
    ),
    "status_for_snp": (
        SNP + '[workload.tcb]\nstatuses = ["OutOfDate"]',
        "policy:7:1",
        "workload[0].tcb.statuses",
        "no meaning",
    ),
    "snp_components_for_intel": (
        HEAD + "[workload.tcb.snp]\nmicrocode = 3",
        "policy:6:1",
        "workload[0].tcb.snp",
        "no meaning",
    ),
    "binds_of_a_named_workload": (
        HEAD + 'binds = ["mrtd"]',
        "policy:6:1",
        "workload[0].binds",
        "belongs to its name",
    ),
    "binds_unknown": (
        HEAD.replace("named", "measured") + 'binds = ["mrtd", "pcr0"]',
        "policy:6:18",
        "workload[0].binds[1]",
        "pcr0",
    ),
    "binds_no_code": (
        HEAD.replace("named", "measured") + 'binds = ["rtmr3"]',
        "policy:6:1",
        "workload[0].binds",
        "lacks mrtd",
    ),
    "key_type_unknown": (
        HEAD + KEY + 'type = "rsa"',
        "policy:8:1",
        "workload[0].key[0].type",
        "invalid enum",
    ),
    "key_length": (
        HEAD + KEY + "length = 65",
        "policy:8:1",
        "workload[0].key[0].length",
        "<= 64",
    ),
    "purpose_twice": (
        HEAD + KEY + KEY,
        "policy:9:1",
        "workload[0].key[1].purpose",
        "twice",
    ),
    "two_stars": (
        HEAD + KEY + 'labels = ["a*b*c"]',
        "policy:8:11",
        "workload[0].key[0].labels[0]",
        "regex",
    ),
    "too_many_labels": (
        HEAD + KEY + f"labels = {[f'l{i}' for i in range(17)]}",
        "policy:8:1",
        "workload[0].key[0].labels",
        "<= 16",
    ),
    "name_twice": (
        HEAD + HEAD.partition("\n")[2],
        "policy:7:1",
        "workload[1].name",
        "stands twice",
    ),
    "tenant_name": (HEAD + 'tenant = "A/b"', "policy:6:1", "workload[0].tenant", ""),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_place_and_field(name: str) -> None:
    require_refused(*REFUSED[name])


def test_a_name_in_two_documents_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^policy_invalid: policy\[1\]:3:1: "):
        load_policy([HEAD, HEAD])


def test_a_document_that_is_too_long_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read, "MAX_DOCUMENT_CHARS", 40)
    with pytest.raises(SettingsError, match="longer than 40"):
        parse(HEAD)


@pytest.mark.parametrize("deep", ["[" * 100_000, "{a=" * 20_000])
def test_deep_nesting_is_an_error_of_ours(deep: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(f"version = {deep}")
    assert caught.value.code is Code.POLICY_INVALID


@settings(deadline=None)
@given(st.text(max_size=200) | st.text(alphabet='[]{}="\n.,# ab1', max_size=200))
def test_any_text_is_a_policy_or_an_error_of_ours(text: str) -> None:
    positions(text)
    with suppress(SettingsError):
        load_policy(text)


def test_lengths_are_known_for_every_measurement() -> None:
    assert set(MEASUREMENT_BYTES) == set(all_names())
    assert set(all_names()) == {n for tee in Tee for n in MEASUREMENT_NAMES[tee]}


LOCATED = """# a comment with = and [ and "
top = 1
"quoted \\u0041" = '''
x = 2
'''
[one.two]
a.b = { c = [1, "two, ]", { d = 3 }], e = "}" } # tail
[[list]]
[[list.inner]]
k = [
  1, # first
  [2, 3],
]
[list.inner.sub]
s = "a\\"]b"
[[list.inner]]
k = 2026-10-01T00:00:00Z
[[list]]
k = '['
"""
PLACES: dict[Path, tuple[int, int]] = {
    ("top",): (2, 1),
    ("quoted A",): (3, 1),
    ("one", "two"): (6, 1),
    ("one", "two", "a", "b"): (7, 1),
    ("one", "two", "a", "b", "c"): (7, 9),
    ("one", "two", "a", "b", "c", 1): (7, 17),
    ("one", "two", "a", "b", "c", 2, "d"): (7, 29),
    ("one", "two", "a", "b", "e"): (7, 39),
    ("list", 0): (8, 1),
    ("list", 0, "inner", 0): (9, 1),
    ("list", 0, "inner", 0, "k", 1, 1): (12, 7),
    ("list", 0, "inner", 0, "sub", "s"): (15, 1),
    ("list", 0, "inner", 1, "k"): (17, 1),
    ("list", 1, "k"): (19, 1),
}


@pytest.mark.parametrize("path", PLACES, ids=show_path)
def test_places(path: Path) -> None:
    at = positions(LOCATED)[path]
    assert (at.line, at.column) == PLACES[path]


def every_path(value: Any, path: Path = ()) -> list[Path]:
    found = [path] if path else []
    if isinstance(value, dict):
        for key, item in value.items():
            found += every_path(item, (*path, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            found += every_path(item, (*path, i))
    return found


@pytest.mark.parametrize("text", [LOCATED, LOCATED.replace("\n", "\r\n"), document()])
def test_everything_that_is_read_has_a_place(text: str) -> None:
    found = positions(text)
    # A table that only its sub-tables imply has none of its own.
    implied = {("one",)}
    assert set(every_path(tomllib.loads(text))) - set(found) <= implied


def test_the_hidden_key_of_a_map_is_found_behind_good_ones() -> None:
    good = "\n".join(f'{n} = "{value(n).hex()}"' for n in ("mrtd", "rtmr0", "rtmr1"))
    with pytest.raises(SettingsError, match=r"measurements\.rtmr2: "):
        parse(f"{HEAD}{IMAGE}{good}\nrtmr2 = 1.5\n")
