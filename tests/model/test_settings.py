# SPDX-License-Identifier: Apache-2.0
"""Release settings: frozen defaults, and a digest that survives new settings."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tightseal.errors import SettingsError
from tightseal.model.claims import TcbStatus
from tightseal.model.settings import (
    LegacySettings,
    LimitSettings,
    ReleaseSettings,
    SnpMinimum,
)

GOLDEN = Path(__file__).parent.parent / "data" / "release_defaults.json"


def test_defaults_never_change() -> None:
    """A default is part of every key that was derived under it: see ADR 0002."""
    frozen = json.loads(GOLDEN.read_text())
    today = msgspec.to_builtins(ReleaseSettings())
    assert {name: json.loads(msgspec.json.encode(today[name])) for name in frozen} == (
        frozen
    ), "a released default changed: every sidecar key would change with it"
    assert set(today) == set(frozen), "add the new setting's default to the golden file"


def test_digest_of_the_defaults_is_frozen() -> None:
    assert ReleaseSettings().differences() == {}
    assert ReleaseSettings().digest().hex() == (
        "e42e86b88c9b364cc33a83e62255d8d924cb74be354a10716062c4734edb5151"
        "d21abb5072b54be1051fed684b6b0c683901a22849e7baccc168fd3396b741d8"
    )


CHANGES: dict[str, dict[str, Any]] = {
    "accepted_tcb": {"accepted_tcb": (TcbStatus.OUT_OF_DATE,)},
    "identity": {"tdx_identity": ("mrtd", "rtmr3")},
    "tenant": {"tenant": "other"},
    "nested_legacy": {"legacy": LegacySettings(enabled=True)},
    "nested_limit": {"limits": LimitSettings(max_keys=1)},
    "nested_snp": {"snp_minimum_tcb": SnpMinimum(snp=8)},
    "nonce_life": {"nonce_life": 60},
}


def test_every_change_gives_another_digest() -> None:
    digests = [ReleaseSettings(**change).digest() for change in CHANGES.values()]
    digests.append(ReleaseSettings().digest())
    assert len(set(digests)) == len(digests)


def test_writing_a_default_out_changes_nothing() -> None:
    written = ReleaseSettings(tenant="default", legacy=LegacySettings(enabled=False))
    assert written.digest() == ReleaseSettings().digest()


REFUSED: dict[str, dict[str, Any]] = {
    "empty_selection": {"tdx_identity": ()},
    "unknown_measurement": {"tdx_identity": ("mrtd", "rtmr4")},
    "measurement_of_another_tee": {"sgx_identity": ("mrtd",)},
    "measurement_twice": {"snp_identity": ("vmpl", "vmpl")},
    "no_status": {"accepted_tcb": ()},
    "revoked_status": {"accepted_tcb": (TcbStatus.REVOKED,)},
    "status_twice": {"accepted_tcb": (TcbStatus.UP_TO_DATE, TcbStatus.UP_TO_DATE)},
    "root_not_base64": {"simulated_roots": ("not base64!",)},
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    with pytest.raises(SettingsError):
        ReleaseSettings(**REFUSED[name])
