# SPDX-License-Identifier: Apache-2.0
"""What the tests of the slots share: ids, a world, and how refusals are read."""

import re
from collections.abc import Mapping

import pytest
from hypothesis import strategies as st

from tightseal.errors import Code, KeyReleaseError
from tightseal.model.canonical import Value, decode, encode
from tightseal.model.secret import Secret
from tightseal.model.slots import SlotKey
from tightseal_sim.intel.enclave import EnclaveImage, SimEnclave
from tightseal_sim.intel.platform import SimPlatform
from tightseal_sim.world import World

KEYRING = bytes([0x51]) * 32
SLOT = bytes([0x52]) * 16
IDS = {"keyring_id": KEYRING, "slot_id": SLOT}
PROVIDER = EnclaveImage(name="provider", code=b"release 1", isv_prod_id=7, isv_svn=3)

Parameters = Mapping[str, Value]


def machine(name: str = "host") -> SimPlatform:
    """A machine of a fresh world: what is done to it stays in the test."""
    return World.in_memory(b"\x2b" * 32).intel.platform(name)


def enclave(platform: SimPlatform, image: EnclaveImage = PROVIDER) -> SimEnclave:
    loaded: SimEnclave = platform.load_enclave(image)
    return loaded


def made(slot: SlotKey) -> tuple[Parameters, Secret]:
    """A slot as it comes back from the keyring's file."""
    parameters, key = slot.create(**IDS)
    assert len(key) == 32
    stored = decode(encode(parameters))
    assert isinstance(stored, Mapping)
    return stored, key


def refused(slot: SlotKey, parameters: Parameters, words: str) -> None:
    """The slot cannot be opened, for this reason, and for no other."""
    with pytest.raises(KeyReleaseError, match=re.escape(words)) as caught:
        slot.open(parameters, **IDS)
    assert caught.value.code is Code.SLOT_UNAVAILABLE


def changed(parameters: Parameters, **values: Value) -> Parameters:
    return {**parameters, **values}


def without(parameters: Parameters, name: str) -> Parameters:
    return {key: value for key, value in parameters.items() if key != name}


VALUES: st.SearchStrategy[Value] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 64), (1 << 64) - 1),
    st.binary(max_size=600),
    st.text(max_size=40),
    st.lists(st.integers(0, 300) | st.binary(max_size=40), max_size=30),
    st.dictionaries(st.text(max_size=8), st.binary(max_size=8), max_size=3),
)


@st.composite
def corrupted(draw: st.DrawFn, parameters: Parameters) -> Parameters:
    """Parameters that differ from these in at least one value, or in their names."""
    name = draw(st.sampled_from(sorted(parameters)))
    kind = draw(st.sampled_from(["value", "bit", "gone", "more"]))
    before = parameters[name]
    if kind == "gone":
        return without(parameters, name)
    if kind == "more":
        extra = draw(st.text(max_size=10).filter(lambda n: n not in parameters))
        return {**parameters, extra: draw(VALUES)}
    if kind == "bit" and isinstance(before, bytes) and before:
        at = draw(st.integers(0, len(before) - 1))
        flip = draw(st.integers(1, 255))
        return {
            **parameters,
            name: before[:at] + bytes([before[at] ^ flip]) + before[at + 1 :],
        }
    # True is not 1 once it is encoded.
    other = draw(VALUES.filter(lambda v: encode(v) != encode(before)))
    return {**parameters, name: other}
