# SPDX-License-Identifier: Apache-2.0
"""Log classes in settings and documents: what cannot mean what it says is refused."""

from typing import Any

import pytest
from policy_support import document

from tightseal.audit.note import NoteKey, NoteSigner, SignatureType
from tightseal.errors import Code, SettingsError
from tightseal.model.keypath import KeyPart, KeyRequest
from tightseal.model.logclass import AuditLogSettings, LogClass, LogNeed, highest
from tightseal.model.settings import ReleaseSettings
from tightseal.policy.bundle.content import read_content
from tightseal.policy.compile import load_policy
from tightseal.policy.diff import differences
from tightseal.policy.key_rules import log_class_of
from tightseal.policy.read import parse


def key(number: int, kind: SignatureType = SignatureType.COSIGNATURE) -> NoteKey:
    return NoteSigner(f"witness.example/{number}", kind, bytes([number]) * 32).key


A, B = str(key(1)), str(key(2))
NAME, KEY_ID, MATERIAL = A.split("+", 2)

REFUSED: dict[str, dict[str, Any]] = {
    "cosigned_by_nobody": {"least": LogClass.COSIGNED},
    "witnesses_without_a_threshold": {"witnesses": (A,)},
    "threshold_without_witnesses": {"threshold": 1},
    "threshold_beyond_the_witnesses": {"witnesses": (A,), "threshold": 2},
    "one_witness_twice": {"witnesses": (A, A), "threshold": 1},
    "one_key_under_two_names": {
        "witnesses": (A, str(NoteKey("other", key(1).kind, key(1).public_key))),
        "threshold": 2,
    },
    "key_of_a_log": {
        "witnesses": (str(key(1, SignatureType.ED25519)),),
        "threshold": 1,
    },
    "no_name": {"witnesses": (f"+{KEY_ID}+{MATERIAL}",), "threshold": 1},
    "another_id": {"witnesses": (f"{NAME}+00000000+{MATERIAL}",), "threshold": 1},
    "a_url": {"witnesses": ("https://witness.example",), "threshold": 1},
    "not_base64": {"witnesses": (f"{NAME}+{KEY_ID}+***",), "threshold": 1},
    "cut": {"witnesses": (A[:-4],), "threshold": 1},
}


@pytest.mark.parametrize("defect", REFUSED)
def test_refused_settings(defect: str) -> None:
    with pytest.raises(SettingsError) as refused:
        AuditLogSettings(**REFUSED[defect])
    assert refused.value.code is Code.SETTINGS_INVALID
    assert "audit_log" in refused.value.detail


def test_witness_keys_are_read_as_notes_read_them() -> None:
    for number in range(32):
        text = str(key(number))
        assert str(NoteKey.parse(text)) == text
        AuditLogSettings(witnesses=(text,), threshold=1)


def test_anchored_for_all_needs_a_policy_root() -> None:
    rules = AuditLogSettings(least=LogClass.ANCHORED)
    with pytest.raises(SettingsError):
        ReleaseSettings(audit_log=rules).check_measured()


def test_the_stronger_of_settings_and_document_counts() -> None:
    rules = AuditLogSettings(witnesses=(A, B), threshold=1)
    assert not rules.need(LogClass.SIGNED).waits
    assert rules.need(LogClass.COSIGNED) == LogNeed(LogClass.COSIGNED, (A, B), 1)
    strict = AuditLogSettings(
        least=LogClass.COSIGNED, witnesses=rules.witnesses, threshold=2
    )
    assert strict.need(LogClass.ANCHORED).log_class is LogClass.COSIGNED
    assert highest(()) is LogClass.SIGNED


def test_settings_of_the_log_are_part_of_the_digest() -> None:
    rules = [
        AuditLogSettings(),
        AuditLogSettings(witnesses=(A,), threshold=1),
        AuditLogSettings(witnesses=(B,), threshold=1),
        AuditLogSettings(witnesses=(A, B), threshold=1),
        AuditLogSettings(witnesses=(A, B), threshold=2),
        AuditLogSettings(least=LogClass.COSIGNED, witnesses=(A,), threshold=1),
    ]
    assert len({ReleaseSettings(audit_log=one).digest() for one in rules}) == 6


KEYS = """
[[workload.key]]
purpose = "vault"
log = "cosigned"

[[workload.key]]
purpose = "plain"
"""
WITNESSES = f'[audit_log]\nwitnesses = ["{A}"]\nthreshold = 1\n'


def test_purposes_name_their_class() -> None:
    text = document(identity="measured") + KEYS
    (workload,) = load_policy(text).workloads

    def asked(*requests: KeyRequest) -> LogClass:
        return log_class_of(workload, requests)

    assert asked(KeyRequest("plain")) is LogClass.SIGNED
    assert asked(KeyRequest("plain"), KeyRequest("vault")) is LogClass.COSIGNED
    public = KeyRequest("vault", part=KeyPart.PUBLIC)
    assert asked(public) is LogClass.SIGNED


def test_a_class_that_is_none() -> None:
    with pytest.raises(SettingsError) as refused:
        load_policy(document() + KEYS.replace("cosigned", "blessed"))
    assert refused.value.code is Code.POLICY_INVALID


def test_a_bundle_that_asks_for_witnesses_names_them() -> None:
    text = (document() + KEYS).encode()
    targets = {"policy/d.toml": text}
    with pytest.raises(SettingsError) as refused:
        read_content(targets)
    assert refused.value.code is Code.POLICY_INVALID
    assert "log" in refused.value.detail
    assert "policy/d.toml:" in refused.value.detail
    read_content(targets | {"release.toml": WITNESSES.encode()})


def test_a_change_of_class_shows_in_the_difference() -> None:
    before = parse(document() + KEYS)
    after = parse(document() + KEYS.replace("cosigned", "anchored"))
    (found,) = differences([before], [after])
    assert (found.field, found.before, found.after) == (
        "key[vault].log",
        "cosigned",
        "anchored",
    )
