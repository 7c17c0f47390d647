# SPDX-License-Identifier: Apache-2.0
"""Limits of the wire format, the settings and the transports agree with each other."""

import pytest
from service_harness import ScriptedProvider, scripted_front, scripted_settings

from tightseal.errors import SettingsError
from tightseal.model import wire
from tightseal.model.base64url import encode_base64url
from tightseal.model.exchange import Kem
from tightseal.model.keypath import MAX_NAME_CHARS
from tightseal.model.settings import LimitSettings, ReleaseSettings
from tightseal.service.framed import MAX_QUOTE_BYTES, decode_request
from tightseal.service.http import _keys_limit
from tightseal.service.listen_settings import FramedSettings
from tightseal.service.load import parse_settings
from tightseal.service.settings import Settings

MOST = LimitSettings(
    max_evidence_bytes=wire.MAX_EVIDENCE_BYTES,
    max_event_log_bytes=wire.MAX_EVENT_LOG_BYTES,
    max_keys=16,
)
LEAST = LimitSettings(max_evidence_bytes=4096, max_event_log_bytes=0, max_keys=1)


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("max_evidence_bytes", wire.MAX_EVIDENCE_BYTES),
        ("max_event_log_bytes", wire.MAX_EVENT_LOG_BYTES),
        ("max_keys", 16),
    ],
)
def test_settings_allow_what_the_wire_allows_and_no_more(name: str, most: int) -> None:
    text = f"[release.limits]\n{name} = "
    parsed = parse_settings(f"{text}{most}\n", environment={})
    assert getattr(parsed.release.limits, name) == most
    with pytest.raises(SettingsError):
        parse_settings(f"{text}{most + 1}\n", environment={})


@pytest.mark.parametrize("limits", [LEAST, LimitSettings(), MOST])
def test_longest_request_that_settings_allow_fits_into_the_body(
    limits: LimitSettings,
) -> None:
    settings = Settings(release=ReleaseSettings(limits=limits))
    front = scripted_front(ScriptedProvider(), settings)
    names = [f"{n:02}".ljust(MAX_NAME_CHARS, "x") for n in range(limits.max_keys)]
    request = wire.KeysRequest(
        version=1,
        nonce=encode_base64url(bytes(128)),
        binding_key_hash=encode_base64url(bytes(32)),
        kem=Kem.MLKEM768_X25519,
        recipient_key=encode_base64url(bytes(2048)),
        keys=[wire.KeyItem(name, name, 64) for name in names],
        evidence=encode_base64url(bytes(limits.max_evidence_bytes)),
        event_log=encode_base64url(bytes(limits.max_event_log_bytes)),
    )
    body = wire.encode_json(request)
    assert len(body) <= _keys_limit(front)
    parsed = wire.decode_json(body, wire.KeysRequest).parsed()
    assert len(parsed.evidence) == limits.max_evidence_bytes


def test_longest_quote_that_settings_allow_fits_into_a_frame() -> None:
    assert MAX_QUOTE_BYTES == wire.MAX_EVIDENCE_BYTES
    payload = b'{"quote":[' + b"255, " * (MAX_QUOTE_BYTES - 1) + b"255]}"
    assert len(payload) <= FramedSettings().max_frame_bytes
    assert decode_request(payload) == b"\xff" * MAX_QUOTE_BYTES


def test_one_request_of_the_longest_kind_fits_into_the_byte_budget() -> None:
    host = scripted_settings().host
    assert host.max_buffered_bytes >= wire.MAX_KEYS_REQUEST_BYTES
    assert host.max_buffered_bytes >= host.framed.max_frame_bytes
