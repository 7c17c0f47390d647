# SPDX-License-Identifier: Apache-2.0
"""Pins: what a provider must be, from a file in the workload's own image."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_provider import IDENTITY, PIN, SIMULATED

from tightseal.errors import SettingsError
from tightseal.guest.pins import (
    ProviderPin,
    RootedIdentity,
    pin_from_toml,
    pin_to_toml,
    read_pin,
)
from tightseal.model.claims import TcbStatus, Tee
from tightseal.model.provider import ProviderIdentity, sidecar_keyring_id

GOOD = {
    "tee": '"sgx"',
    "measurement": f'"{"01" * 32}"',
    "keyring_id": '"sidecar"',
    "settings_digest": f'"{"04" * 64}"',
    "trust_domains": '["intel"]',
}


def text(**changes: str | None) -> str:
    keys = {k: v for k, v in (GOOD | changes).items() if v is not None}
    return "[provider]\n" + "\n".join(f"{k} = {v}" for k, v in keys.items())


def test_a_pin_is_read() -> None:
    assert pin_from_toml(text()) == PIN


def test_a_simulated_pin_says_so_twice() -> None:
    both = {"trust_domains": f'["{SIMULATED}"]', "allow_simulated": "true"}
    pin = pin_from_toml(text(**both))
    assert pin.allow_simulated
    with pytest.raises(SettingsError, match="allow_simulated"):
        pin_from_toml(text(trust_domains=both["trust_domains"]))


ROOT = {"policy_root": f'"{"05" * 32}"'}


def test_settings_may_be_left_to_the_policy_root() -> None:
    pin = pin_from_toml(text(**ROOT, settings_digest=None))
    assert pin.identity == RootedIdentity(
        "sgx", bytes([1]) * 32, sidecar_keyring_id(), bytes([5]) * 32
    )
    assert pin != pin_from_toml(text(**ROOT))


def test_a_settings_digest_beside_a_policy_root_still_counts() -> None:
    identity = pin_from_toml(text(**ROOT)).identity
    assert isinstance(identity, ProviderIdentity)
    assert identity.settings_digest == bytes([4]) * 64
    assert identity.policy_root == bytes([5]) * 32


def test_settings_are_never_left_to_nobody() -> None:
    with pytest.raises(SettingsError, match="settings_digest"):
        pin_from_toml(text(settings_digest=None))
    for root in (None, b"", bytes(31), "05" * 32):
        with pytest.raises(SettingsError, match="policy_root"):
            RootedIdentity("sgx", bytes(32), bytes(32), root)  # type: ignore[arg-type]


CASES: list[tuple[str, dict[str, Any]]] = [
    *[(f"without_{name}", {name: None}) for name in GOOD],
    ("tee_unknown", {"tee": '"trustzone"'}),
    ("measurement_short", {"measurement": '"0101"'}),
    ("measurement_of_another_tee", {"tee": '"snp"'}),
    ("measurement_upper_case", {"measurement": f'"{"AB" * 32}"'}),
    ("measurement_newline", {"measurement": f'"{"01" * 32}\\n"'}),
    ("measurement_odd", {"measurement": f'"{"01" * 31}0"'}),
    ("keyring_id_short", {"keyring_id": '"01"'}),
    ("policy_root_short", {"policy_root": '"01"'}),
    ("policy_root_empty", {"policy_root": '""'}),
    (
        "policy_root_empty_without_digest",
        {"policy_root": '""', "settings_digest": None},
    ),
    ("settings_digest_empty", ROOT | {"settings_digest": '""'}),
    ("settings_digest_any", ROOT | {"settings_digest": '"any"'}),
    ("tee_tdx_with_root", ROOT | {"tee": '"tdx"', "measurement": f'"{"01" * 48}"'}),
    ("settings_digest_short", {"settings_digest": f'"{"04" * 32}"'}),
    ("no_trust_domain", {"trust_domains": "[]"}),
    ("trust_domain_unknown", {"trust_domains": '["arm"]'}),
    ("trust_domain_prefix", {"trust_domains": '["intel "]'}),
    ("simulated_without_root", {"trust_domains": '["simulated:"]'}),
    ("trust_domains_text", {"trust_domains": '"intel"'}),
    ("tcb_unknown", {"accepted_tcb": '["Fine"]'}),
    ("tcb_revoked", {"accepted_tcb": '["Revoked"]'}),
    ("allow_simulated_text", {"allow_simulated": '"yes"'}),
    ("unknown_key", {"alow_simulated": "true"}),
]


@pytest.mark.parametrize("changes", [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        pin_from_toml(text(**changes))


@pytest.mark.parametrize(
    "whole",
    [
        "",
        "[provider",
        "provider = 1",
        text() + "\n[other]\nx = 1",
        text() + "\n# " + "x" * 65536,
    ],
    ids=["empty", "not_toml", "not_a_table", "another_table", "too_long"],
)
def test_files_refused(whole: str) -> None:
    with pytest.raises(SettingsError):
        pin_from_toml(whole)


def test_a_pin_file(tmp_path: Path) -> None:
    path = tmp_path / "pin.toml"
    with pytest.raises(SettingsError):
        read_pin(path)
    path.write_text(text())
    assert read_pin(path) == PIN
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError):
        read_pin(path)
    path.write_bytes(b"#" * (1 << 20))
    with pytest.raises(SettingsError):
        read_pin(path)


def test_a_pin_built_by_hand_is_checked_too() -> None:
    for domains in (frozenset[str](), frozenset({"anything"})):
        with pytest.raises(SettingsError):
            ProviderPin(IDENTITY, domains)


sizes = {Tee.SGX: 32, Tee.SNP: 48}
bytes32 = st.binary(min_size=32, max_size=32)


@st.composite
def pins(draw: st.DrawFn) -> ProviderPin:
    tee = draw(st.sampled_from(list(sizes)))
    parts = (
        tee.value,
        draw(st.binary(min_size=sizes[tee], max_size=sizes[tee])),
        draw(st.just(sidecar_keyring_id()) | bytes32),
    )
    root = draw(st.none() | bytes32)
    identity: ProviderIdentity | RootedIdentity
    if root is not None and draw(st.booleans()):
        identity = RootedIdentity(*parts, root)
    else:
        digest = draw(st.binary(min_size=64, max_size=64))
        identity = ProviderIdentity(*parts, root, digest)
    simulated = draw(st.booleans())
    known = ["intel", "amd"] + ([str(SIMULATED)] if simulated else [])
    statuses = [s for s in TcbStatus if s is not TcbStatus.REVOKED]
    return ProviderPin(
        identity=identity,
        trust_domains=draw(st.frozensets(st.sampled_from(known), min_size=1)),
        allow_simulated=simulated,
        accepted_tcb=draw(st.frozensets(st.sampled_from(statuses))),
    )


@given(pin=pins())
def test_what_is_written_is_read_back(pin: ProviderPin) -> None:
    assert pin_from_toml(pin_to_toml(pin)) == pin
