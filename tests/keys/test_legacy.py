# SPDX-License-Identifier: Apache-2.0
import hashlib

import pytest

from tightseal.errors import Code, KeyReleaseError
from tightseal.keys.legacy import legacy_hash, legacy_key
from tightseal.model.secret import Secret

NAMES = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")


def test_vector_of_the_original_provider() -> None:
    assert (
        legacy_hash(b"sealing key", b"measurements").hex()
        == "dc3b7262588a756aa3c809cecbc1e4a04e1ceb4713731ef49cb335fd68d07781"
    )


def test_vector_with_all_measurements() -> None:
    parts = {name: bytes([i]) * 48 for i, name in enumerate(NAMES)}
    key = legacy_key(Secret(bytes(range(16))), **parts)
    assert (
        key.reveal().hex()
        == "16cfe86c73f8344b6c6467472cea31b828a3fc185a8e80f0ed24cef369be4046"
    )


def test_every_measurement_counts() -> None:
    plain = dict.fromkeys(NAMES, bytes(48))
    sealing = Secret(b"s" * 16)
    keys = {legacy_key(sealing, **plain).reveal()}
    for name in NAMES:
        keys.add(legacy_key(sealing, **plain | {name: b"\1" * 48}).reveal())
    assert len(keys) == 6


def test_formula_is_a_plain_concatenation() -> None:
    parts = {name: bytes([7 + i]) * 48 for i, name in enumerate(NAMES)}
    key = legacy_key(Secret(b"s" * 32), **parts)
    assert key.reveal() == hashlib.sha256(b"s" * 32 + b"".join(parts.values())).digest()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, 32, 47, 49])
def test_wrong_length_is_refused(name: str, size: int) -> None:
    parts = dict.fromkeys(NAMES, bytes(48)) | {name: bytes(size)}
    with pytest.raises(KeyReleaseError, match=name) as refused:
        legacy_key(Secret(b"s" * 16), **parts)
    assert refused.value.code is Code.KEY_PATH_INVALID


@pytest.mark.parametrize("sealing", [b"", b"s" * 15, bytes(16)])
def test_short_or_zero_sealing_key_is_refused(sealing: bytes) -> None:
    with pytest.raises(KeyReleaseError) as refused:
        legacy_key(Secret(sealing), **dict.fromkeys(NAMES, bytes(48)))
    assert refused.value.code is Code.SEALING_KEY_UNAVAILABLE
