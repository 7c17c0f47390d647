# SPDX-License-Identifier: Apache-2.0
"""Pins of providers."""

from tightseal.guest.pins import pin_from_toml, pin_to_toml


def seeds() -> list[bytes]:
    lines = (
        "[provider]",
        'tee = "sgx"',
        f'measurement = "{"11" * 32}"',
        'keyring_id = "sidecar"',
        f'settings_digest = "{"22" * 64}"',
        'trust_domains = ["intel"]',
        "allow_simulated = false",
        'accepted_tcb = ["UpToDate"]',
        f'policy_root = "{"33" * 32}"',
    )
    return ["\n".join(lines[:size]).encode() for size in (6, 8, 9)]


def one(data: bytes) -> None:
    pin = pin_from_toml(data.decode("utf-8", errors="replace"))
    assert pin_from_toml(pin_to_toml(pin)) == pin
