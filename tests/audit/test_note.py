# SPDX-License-Identifier: Apache-2.0
import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.audit.checkpoint import (
    Checkpoint,
    Trust,
    parse_number,
    sign_checkpoint,
    verify_checkpoint,
)
from tightseal.audit.merkle import EMPTY_ROOT, MAX_SIZE
from tightseal.audit.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Note,
    NoteKey,
    NoteSigner,
    SignatureLine,
    SignatureType,
    parse_note,
    parse_signature_lines,
)
from tightseal.errors import Code, ServiceError

ROOT = bytes(range(32))
ORIGIN = "log.example/one"
LOG = NoteSigner(ORIGIN, SignatureType.ED25519, b"\1" * 32)
WITNESSES = [
    NoteSigner(f"witness{n}.example", SignatureType.COSIGNATURE, bytes([n]) * 32)
    for n in (2, 3, 4)
]
NOW = 1_800_000_000

# The example of the C2SP signed-note specification.
SPEC_KEY = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"
SPEC_NOTE = (
    "This is an example message.\n\n\N{EM DASH} example.com/foo Uw2QOkn8srV1yJGh2VYR"
    "lL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n"
)


def refused(code: Code) -> "pytest.RaisesExc[ServiceError]":
    return pytest.RaisesExc(ServiceError, check=lambda e: e.code is code)


def cosigned(*witnesses: NoteSigner, size: int = 7, root: bytes = ROOT) -> Note:
    note = sign_checkpoint(Checkpoint(ORIGIN, size, root), LOG)
    lines = tuple(w.sign(note.text, now=NOW) for w in witnesses)
    return Note(note.text, note.signatures + lines)


def trust(threshold: int = 0, count: int = 3) -> Trust:
    return Trust(LOG.key, tuple(w.key for w in WITNESSES[:count]), threshold)


def test_the_published_note_verifies() -> None:
    key = NoteKey.parse(SPEC_KEY)
    assert str(key) == SPEC_KEY
    note = parse_note(SPEC_NOTE.encode())
    assert note.text == "This is an example message.\n"
    assert [signed.key for signed in note.verified([key])] == [key]
    assert note.encode() == SPEC_NOTE.encode()


def test_the_published_note_with_another_text_is_refused() -> None:
    changed = parse_note(SPEC_NOTE.replace("example message", "evil message").encode())
    with refused(Code.LOG_UNDERSIGNED):
        changed.verified([NoteKey.parse(SPEC_KEY)])


def test_a_cosignature_states_its_time() -> None:
    found = verify_checkpoint(cosigned(*WITNESSES).encode(), trust(3))
    assert found.checkpoint == Checkpoint(ORIGIN, 7, ROOT)
    assert [one.time for one in found.witnesses] == [NOW] * 3


def test_a_changed_time_of_a_cosignature_is_refused() -> None:
    note = cosigned(WITNESSES[0])
    own, line = note.signatures
    later = (NOW + 1).to_bytes(8, "big") + line.signature[8:]
    forged = Note(note.text, (own, SignatureLine(line.name, line.key_id, later)))
    with refused(Code.LOG_UNDERSIGNED):
        verify_checkpoint(forged.encode(), trust(1))


def test_too_few_witnesses() -> None:
    note = cosigned(*WITNESSES[:2]).encode()
    verify_checkpoint(note, trust(2))
    with refused(Code.LOG_UNDERSIGNED):
        verify_checkpoint(note, trust(3))


def test_one_witness_that_signs_twice_counts_once() -> None:
    with refused(Code.LOG_UNDERSIGNED):
        verify_checkpoint(cosigned(WITNESSES[0], WITNESSES[0]).encode(), trust(2))


def test_a_witness_that_is_not_named_does_not_count() -> None:
    note = cosigned(WITNESSES[2]).encode()
    assert verify_checkpoint(note, trust(count=2)).witnesses == ()
    with refused(Code.LOG_UNDERSIGNED):
        verify_checkpoint(note, trust(1, count=2))


def test_a_checkpoint_that_its_log_did_not_sign() -> None:
    note = cosigned(WITNESSES[0])
    with refused(Code.LOG_UNDERSIGNED):
        verify_checkpoint(Note(note.text, note.signatures[1:]).encode(), trust(1))


def test_a_checkpoint_of_another_log() -> None:
    other = NoteSigner("log.example/two", SignatureType.ED25519, b"\1" * 32)
    note = sign_checkpoint(Checkpoint(other.key.name, 7, ROOT), other)
    with refused(Code.LOG_UNDERSIGNED):
        verify_checkpoint(note.encode(), trust())


@pytest.mark.parametrize(
    "make",
    [
        lambda: Trust(WITNESSES[0].key),
        lambda: Trust(LOG.key, (LOG.key,)),
        lambda: Trust(LOG.key, (WITNESSES[0].key, WITNESSES[0].key), 2),
        lambda: Trust(
            LOG.key, (NoteKey("w", SignatureType.COSIGNATURE, LOG.key.public_key),), 1
        ),
        lambda: Trust(LOG.key, (WITNESSES[0].key,), 2),
        lambda: Trust(LOG.key, (), -1),
    ],
    ids=[
        "witness_as_log",
        "log_as_witness",
        "witness_twice",
        "log_key_under_a_witness_name",
        "threshold_out_of_reach",
        "threshold_below_zero",
    ],
)
def test_keys_that_cannot_mean_what_they_say(make) -> None:  # noqa: ANN001
    with refused(Code.LOG_UNDERSIGNED):
        make()


@given(st.integers(0, 2**31), st.data())
def test_any_flipped_bit_of_a_signed_checkpoint_is_noticed(
    size: int, data: st.DataObject
) -> None:
    note = cosigned(*WITNESSES, size=size or 1).encode()
    at = data.draw(st.integers(0, len(note) - 1))
    bit = data.draw(st.integers(0, 7))
    changed = note[:at] + bytes([note[at] ^ 1 << bit]) + note[at + 1 :]
    with pytest.RaisesExc(
        ServiceError,
        check=lambda e: e.code in {Code.LOG_MALFORMED, Code.LOG_UNDERSIGNED},
    ):
        verify_checkpoint(changed, trust(3))


SIGNED = cosigned().encode()
LINE = SIGNED.split(b"\n")[-2].decode()
MALFORMED = {
    "no_empty_line": b"text\n" + LINE.encode() + b"\n",
    "no_signature": b"text\n\n",
    "no_final_newline": SIGNED[:-1],
    "not_utf8": SIGNED + b"\xff\n",
    "control_character": SIGNED.replace(b"7\n", b"7\t\n", 1),
    "line_that_is_no_signature": SIGNED + b"hello\n",
    "hyphen_for_dash": SIGNED.replace("\N{EM DASH}".encode(), b"-"),
    "no_base64": SIGNED[:-4] + b"!!!\n",
    "base64_without_padding": SIGNED.rstrip(b"=\n") + b"\n",
    "signature_of_an_id_alone": f"text\n\n\N{EM DASH} n {'AAAAAA=='}\n".encode(),
    "name_with_plus": SIGNED.replace(f"{ORIGIN} ".encode(), b"a+b ", 1),
    "too_many_signatures": b"text\n\n" + f"{LINE}\n".encode() * (MAX_SIGNATURES + 1),
    "too_long": b"x" * MAX_NOTE_BYTES + SIGNED,
}


@pytest.mark.parametrize("defect", MALFORMED)
def test_malformed_note(defect: str) -> None:
    with refused(Code.LOG_MALFORMED):
        parse_note(MALFORMED[defect])


def test_signature_lines_alone() -> None:
    assert parse_signature_lines(f"{LINE}\n".encode()) == cosigned().signatures
    with refused(Code.LOG_MALFORMED):
        parse_signature_lines(b"")


ROOT_TEXT = base64.b64encode(ROOT).decode()
BAD_TEXTS = {
    "two_lines": f"{ORIGIN}\n7\n",
    "empty_origin": f"\n7\n{ROOT_TEXT}\n",
    "leading_zero": f"{ORIGIN}\n07\n{ROOT_TEXT}\n",
    "negative_size": f"{ORIGIN}\n-7\n{ROOT_TEXT}\n",
    "foreign_digits": f"{ORIGIN}\n\N{ARABIC-INDIC DIGIT SEVEN}\n{ROOT_TEXT}\n",
    "size_over_the_bound": f"{ORIGIN}\n{MAX_SIZE + 1}\n{ROOT_TEXT}\n",
    "endless_size": f"{ORIGIN}\n{'9' * 5000}\n{ROOT_TEXT}\n",
    "short_root": f"{ORIGIN}\n7\nAAAA\n",
    "url_safe_base64": f"{ORIGIN}\n7\n{'_' * 42 + '8='}\n",
    "empty_extension": f"{ORIGIN}\n7\n{ROOT_TEXT}\n\nmore\n",
    "too_many_extensions": f"{ORIGIN}\n7\n{ROOT_TEXT}\n" + "x\n" * 17,
}


@pytest.mark.parametrize("defect", BAD_TEXTS)
def test_malformed_checkpoint(defect: str) -> None:
    with refused(Code.LOG_MALFORMED):
        Checkpoint.parse(BAD_TEXTS[defect])


def test_extension_lines_are_kept_and_covered() -> None:
    head = Checkpoint(ORIGIN, 0, EMPTY_ROOT, ("one", "two"))
    assert Checkpoint.parse(head.text()) == head
    note = sign_checkpoint(head, LOG)
    dropped = Note(Checkpoint(ORIGIN, 0, EMPTY_ROOT).text(), note.signatures)
    with refused(Code.LOG_UNDERSIGNED):
        verify_checkpoint(dropped.encode(), trust())


@given(st.integers(0, MAX_SIZE))
def test_numbers_have_one_text(number: int) -> None:
    assert parse_number(str(number)) == number


def vkey(*, name: str = "n", key_id: str | None = None, material: bytes) -> str:
    kind = SignatureType.ED25519
    own = NoteKey(name, kind, material[1:]).key_id.hex()
    return f"{name}+{key_id or own}+{base64.b64encode(material).decode()}"


BAD_KEYS = {
    "no_parts": "name",
    "id_of_another_key": vkey(key_id="00000000", material=b"\1" + ROOT),
    "id_in_capitals": SPEC_KEY.replace("530d903a", "530D903A"),
    "unknown_type": vkey(material=b"\2" + ROOT),
    "short_key": vkey(material=b"\1" + ROOT[1:]),
    "no_material": vkey(material=b""),
    "name_with_a_space": vkey(name="a b", material=b"\1" + ROOT),
    "no_name": vkey(name="", material=b"\1" + ROOT),
    "too_long": "n" * 5000,
}


@pytest.mark.parametrize("defect", BAD_KEYS)
def test_malformed_verifier_key(defect: str) -> None:
    with refused(Code.LOG_MALFORMED):
        NoteKey.parse(BAD_KEYS[defect])


@given(st.binary(min_size=32, max_size=32), st.sampled_from(SignatureType))
def test_verifier_keys_come_back(private: bytes, kind: SignatureType) -> None:
    key = NoteSigner("witness.example/w", kind, private).key
    assert NoteKey.parse(str(key)) == key
