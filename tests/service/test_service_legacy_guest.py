# SPDX-License-Identifier: Apache-2.0
"""The legacy protocol end to end, against a guest that checks what dstack's checks.

The modelled guest makes every check of its original that does not need Intel's own
root: the original accepts quotes under that root alone, so it cannot be run here.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import dcap_qvl
import pytest
from nacl.public import PrivateKey, SealedBox
from service_harness import ask_framed, frame

from tightseal.audit.journal import SqliteJournal
from tightseal.collateral.bundle import intel_to_json
from tightseal.evidence.intel.quote import parse_quote
from tightseal.evidence.intel.unverified import collateral_query
from tightseal.keys.legacy import legacy_key
from tightseal.model.claims import Tee
from tightseal.service.framed import encode_response
from tightseal_sim.door import PROVIDER_ENCLAVE
from tightseal_sim.intel.enclave import EnclaveImage
from tightseal_sim.intel.quote import QuoteForm
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene

ANSWER_SECONDS = 30
"""What the guest waits for the whole call, collateral included."""

SGX_DEBUG = 0x02

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@dataclass(frozen=True)
class Unsealed:
    """What the modelled guest ends up with."""

    seed: bytes
    mr_enclave: bytes
    response: bytes


@dataclass(frozen=True)
class DstackGuest:
    """dstack-util's ``get_sealing_key`` with the checks around it.

    Attributes:
        scene: where collateral of the provider's quote comes from.
        td: the guest.
        pinned: MRENCLAVE of app-compose's ``key_provider_id``; empty accepts any.
    """

    scene: Scene
    td: SimTd
    pinned: bytes = b""

    def ask(self, provider: Provider) -> Unsealed:
        secret = PrivateKey.generate()
        quote = self.td.evidence(bytes(secret.public_key).ljust(64, b"\0"))
        start = time.monotonic()
        answer = exchange(provider, quote)
        assert time.monotonic() - start < ANSWER_SECONDS
        return self.check(answer, secret)

    def check(self, answer: bytes, secret: PrivateKey) -> Unsealed:
        length, payload = int.from_bytes(answer[:4], "big"), answer[4:]
        assert length == len(payload)
        fields = json.loads(payload)
        assert set(fields) == {"encrypted_key", "provider_quote"}
        encrypted = bytes(fields["encrypted_key"])
        provider_quote = bytes(fields["provider_quote"])
        # Byte for byte what the original's own encoder writes for these two arrays.
        assert answer == frame(json.dumps(fields, separators=(",", ":")).encode())
        assert answer == encode_response(encrypted, provider_quote)

        report = self.verified(provider_quote)
        bound = bytes.fromhex(report["report_data"])
        assert bound[:32] == hashlib.sha256(encrypted).digest()
        assert bound[32:] == bytes(32)
        assert not bytes.fromhex(report["attributes"])[0] & SGX_DEBUG

        assert len(encrypted) == 80
        seed = SealedBox(secret).decrypt(encrypted)
        assert len(seed) == 32
        mr_enclave = bytes.fromhex(report["mr_enclave"])
        assert not self.pinned or mr_enclave == self.pinned
        return Unsealed(seed, mr_enclave, answer)

    def verified(self, provider_quote: bytes) -> Mapping[str, str]:
        """The SGX report of the provider's quote, after dcap-qvl accepted it."""
        asked = collateral_query(parse_quote(provider_quote))
        assert asked.tee is Tee.SGX
        intel, now = self.scene.world.intel, int(time.time())
        found = intel.collateral(fmspc=asked.fmspc, ca=asked.ca, tee=Tee.SGX, now=now)
        collateral = dcap_qvl.QuoteCollateralV3.from_json(intel_to_json(found))
        verified = dcap_qvl.verify_with_root_ca(
            provider_quote, collateral, intel.root_certificate, now
        )
        assert verified.status != "Revoked"
        body = provider_quote[48 : 48 + 384]
        return {
            "attributes": body[48:64].hex(),
            "mr_enclave": body[64:96].hex(),
            "report_data": body[320:384].hex(),
        }


def exchange(provider: Provider, quote: bytes) -> bytes:
    """What dstack's host process does: one connection, one frame each way."""
    return ask_framed(
        provider.framed[1],
        json.dumps({"quote": list(quote)}, separators=(",", ":")).encode(),
        timeout=ANSWER_SECONDS,
    )


def recipient_quote(td: SimTd, tail: bytes = bytes(32)) -> bytes:
    return td.evidence(bytes(PrivateKey.generate().public_key) + tail)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("legacy")) as scene:
        yield scene


@pytest.fixture(scope="module")
def providers(scene: Scene) -> dict[str, Provider]:
    """By derivation; the one with the chain also says why it refuses."""
    return {
        "chain": scene.provider(
            "chain", release={"legacy": {"enabled": True, "json_errors": True}}
        ),
        "compatible": scene.provider(
            "compatible",
            release={"legacy": {"enabled": True, "derivation": "compatible"}},
        ),
    }


def launch(
    scene: Scene, image: TdImage | None = None, machine: str = "machine-a"
) -> SimTd:
    return scene.world.intel.platform(machine).launch_td(image or TdImage())


def refusal(provider: Provider, quote: bytes) -> str:
    """The code in the error frame, and in our log."""
    answer = exchange(provider, quote)
    assert int.from_bytes(answer[:4], "big") == len(answer) - 4
    said = json.loads(answer[4:])
    assert said["simulated"] is True
    last = [x for x in log_of(provider) if x["event"] == "refused"][-1]
    assert (last["code"], last["protocol"]) == (said["error"], "legacy")
    return str(said["error"])


def log_of(provider: Provider) -> list[dict[str, Any]]:
    return [json.loads(line) for line in provider.log.read_text().splitlines()]


# -- what it grants ----------------------------------------------------------------


@pytest.mark.parametrize("derivation", ["chain", "compatible"])
@pytest.mark.parametrize("form", [f for f in QuoteForm if f.version in (4, 5)])
def test_guest_accepts_every_answer(
    scene: Scene,
    providers: dict[str, Provider],
    derivation: str,
    form: QuoteForm,
) -> None:
    td = launch(scene)
    td.form = form
    usual = DstackGuest(scene, launch(scene)).ask(providers[derivation])
    found = DstackGuest(scene, td).ask(providers[derivation])
    assert found.seed == usual.seed
    assert found.mr_enclave == EnclaveImage(name=PROVIDER_ENCLAVE).mr_enclave


def test_the_two_derivations_never_give_one_key(
    scene: Scene, providers: dict[str, Provider]
) -> None:
    guest = DstackGuest(scene, launch(scene))
    seeds = {guest.ask(p).seed for p in providers.values()}
    with scene.client(providers["chain"], launch(scene)) as client:
        seeds |= {client.key(p).reveal() for p in ("disk", "legacy-disk")}
    assert len(seeds) == 4


@pytest.mark.parametrize("derivation", ["chain", "compatible"])
def test_key_and_mrenclave_stay_over_a_restart(scene: Scene, derivation: str) -> None:
    release = {"legacy": {"enabled": True, "derivation": derivation}}
    found = set()
    for _ in range(2):
        provider = scene.provider(f"again-{derivation}", release=release)
        pinned = EnclaveImage(name=PROVIDER_ENCLAVE).mr_enclave
        answer = DstackGuest(scene, launch(scene), pinned).ask(provider)
        found.add((answer.seed, answer.mr_enclave))
        provider.stop()
    assert len(found) == 1


def test_compatible_key_is_the_formula_over_the_sealing_key(
    scene: Scene, providers: dict[str, Provider]
) -> None:
    td = launch(scene)
    enclave = scene.world.intel.platform("machine-a").load_enclave(
        EnclaveImage(name=PROVIDER_ENCLAVE)
    )
    names = ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
    expected = legacy_key(
        enclave.sealing_key(), **{name: td.measurements[name] for name in names}
    )
    assert DstackGuest(scene, td).ask(providers["compatible"]).seed == (
        expected.reveal()
    )


CHANGES: Mapping[str, Callable[[TdImage], TdImage]] = {
    "firmware": lambda i: replace(i, firmware=b"another TDVF"),
    "kernel": lambda i: replace(i, kernel=b"another kernel"),
    "cmdline": lambda i: replace(i, cmdline="console=hvc0 rw"),
    "compose": lambda i: replace(i, boot_events=(("compose-hash", b"\1" * 32),)),
}


@pytest.mark.parametrize("derivation", ["chain", "compatible"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_another_image_gets_another_key(
    scene: Scene,
    providers: dict[str, Provider],
    derivation: str,
    change: Callable[[TdImage], TdImage],
) -> None:
    provider = providers[derivation]
    usual = DstackGuest(scene, launch(scene)).ask(provider).seed
    changed = DstackGuest(scene, launch(scene, change(TdImage()))).ask(provider).seed
    assert changed != usual


def test_only_the_chain_tells_config_ids_apart(
    scene: Scene, providers: dict[str, Provider]
) -> None:
    image = TdImage(mr_config_id=b"\x01" + b"\x33" * 32 + bytes(15))
    for derivation, same in (("chain", False), ("compatible", True)):
        provider = providers[derivation]
        usual = DstackGuest(scene, launch(scene)).ask(provider).seed
        named = DstackGuest(scene, launch(scene, image)).ask(provider).seed
        assert (usual == named) is same


def test_guest_pins_the_provider_that_it_measured(
    scene: Scene, providers: dict[str, Provider]
) -> None:
    """RTMR3 event ``key-provider``: a relying party finds this MRENCLAVE there."""
    td = launch(scene)
    first = DstackGuest(scene, td).ask(providers["chain"])
    payload = {"name": "local-sgx", "id": first.mr_enclave.hex()}
    td.extend(3, ("key-provider", json.dumps(payload).encode()))
    after = DstackGuest(scene, td, pinned=first.mr_enclave).ask(providers["chain"])
    # Asked again after the event, RTMR3 is another: so is the key.
    assert after.seed != first.seed
    with pytest.raises(AssertionError):
        DstackGuest(scene, td, pinned=b"\x01" * 32).ask(providers["chain"])


def test_replayed_quote_gets_the_same_key_in_another_box(
    scene: Scene, providers: dict[str, Provider]
) -> None:
    guest = DstackGuest(scene, launch(scene))
    secret = PrivateKey.generate()
    quote = guest.td.evidence(bytes(secret.public_key).ljust(64, b"\0"))
    answers = [exchange(providers["chain"], quote) for _ in range(2)]
    assert answers[0] != answers[1]
    seeds = {guest.check(answer, secret).seed for answer in answers}
    assert len(seeds) == 1


# -- the modelled guest can fail ---------------------------------------------------


def tampered_box(fields: dict[str, list[int]]) -> None:
    fields["encrypted_key"][50] ^= 1


def tampered_quote(fields: dict[str, list[int]]) -> None:
    fields["provider_quote"][48 + 64] ^= 1


@pytest.mark.parametrize("change", [tampered_box, tampered_quote])
def test_guest_notices_a_changed_answer(
    scene: Scene,
    providers: dict[str, Provider],
    change: Callable[[dict[str, list[int]]], None],
) -> None:
    guest = DstackGuest(scene, launch(scene))
    secret = PrivateKey.generate()
    quote = guest.td.evidence(bytes(secret.public_key).ljust(64, b"\0"))
    fields = json.loads(exchange(providers["chain"], quote)[4:])
    change(fields)
    payload = json.dumps(fields, separators=(",", ":")).encode()
    with pytest.raises((AssertionError, ValueError)):
        guest.check(frame(payload), secret)


def test_golden_sealed_box_opens_for_the_guest() -> None:
    secret = PrivateKey(bytes(range(0x20, 0x40)))
    box = bytes.fromhex(
        "79a631eede1bf9c98f12032cdeadd0e7a079398fc786b88cc846ec89af85a51a841918745f765615"
        "6724e041d891db498d4096b6bdffcc2f21612caa6823635f263bc5e4cf0235c3b230bcdfe71c12e8"
    )
    assert SealedBox(secret).decrypt(box) == bytes(range(32))
    assert encode_response(box, b"\x03\x04")[4:].startswith(b'{"encrypted_key":[121,')


# -- what it refuses ---------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 15, 31])
def test_second_half_of_the_report_data_must_be_zero(
    scene: Scene, providers: dict[str, Provider], at: int
) -> None:
    tail = bytearray(32)
    tail[at] = 1
    quote = recipient_quote(launch(scene), bytes(tail))
    assert refusal(providers["chain"], quote) == "report_data_mismatch"


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_low_order_recipient_is_refused(
    scene: Scene, providers: dict[str, Provider], point: bytes
) -> None:
    quote = launch(scene).evidence(point + bytes(32))
    assert refusal(providers["chain"], quote) == "recipient_key_invalid"


def test_enclave_is_no_guest(scene: Scene, providers: dict[str, Provider]) -> None:
    enclave = scene.world.intel.platform("machine-a").load_enclave(
        EnclaveImage(name="guest")
    )
    quote = enclave.evidence(bytes(PrivateKey.generate().public_key).ljust(64, b"\0"))
    assert refusal(providers["chain"], quote) == "evidence_kind_unsupported"


def test_debug_guest_is_refused(scene: Scene, providers: dict[str, Provider]) -> None:
    quote = recipient_quote(launch(scene, TdImage(debug=True)))
    assert refusal(providers["chain"], quote) == "debug_enabled"


def test_guest_on_another_platform_is_refused(
    scene: Scene, providers: dict[str, Provider]
) -> None:
    quote = recipient_quote(launch(scene, machine="machine-b"))
    assert refusal(providers["chain"], quote) == "platform_mismatch"


def test_changed_quote_is_refused(scene: Scene, providers: dict[str, Provider]) -> None:
    quote = bytearray(recipient_quote(launch(scene)))
    quote[48 + 136] ^= 1
    assert refusal(providers["chain"], bytes(quote)) == "quote_signature_invalid"


def test_without_the_setting_a_refusal_closes_as_upstream_does(
    scene: Scene, providers: dict[str, Provider]
) -> None:
    provider = providers["compatible"]
    quote = recipient_quote(launch(scene, TdImage(debug=True)))
    assert exchange(provider, quote) == b""
    last = [x for x in log_of(provider) if x["event"] == "refused"][-1]
    assert last["code"] == "debug_enabled"


def test_every_decision_is_in_the_journal(
    scene: Scene, providers: dict[str, Provider]
) -> None:
    provider = providers["chain"]
    journal = SqliteJournal.open(provider.settings.host.journal_path)
    before = len(journal.entries(limit=1000))
    DstackGuest(scene, launch(scene)).ask(provider)
    refusal(provider, recipient_quote(launch(scene, machine="machine-b")))
    granted, denied = journal.entries(limit=1000)[before:]
    journal.close()
    assert (granted.entry.code, granted.entry.granted) == ("granted", True)
    assert (denied.entry.code, denied.entry.granted) == ("platform_mismatch", False)
    assert {granted.entry.protocol_class, denied.entry.protocol_class} == {"legacy"}
