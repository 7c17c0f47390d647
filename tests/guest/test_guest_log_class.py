# SPDX-License-Identifier: Apache-2.0
"""Who has seen the log: what a receipt claims must be shown, and terms must be met."""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from scripted_provider import NOW, Provider, Workload, terms

from tightseal.audit.checkpoint import Checkpoint, sign_checkpoint
from tightseal.audit.merkle import EMPTY, inclusion_proof, leaf_hash
from tightseal.audit.note import Note, NoteSigner, SignatureType
from tightseal.audit.proof import LogProof
from tightseal.cli import main
from tightseal.errors import Code, ProviderError, SettingsError
from tightseal.guest.exchange import Exchange
from tightseal.guest.logterms import LogTerms
from tightseal.guest.response import Receipt
from tightseal.model.exchange import LogPromise
from tightseal.model.keypath import KeyRequest
from tightseal.model.logclass import LogClass, LogCover, SignedCover
from tightseal.model.state import AnchorClass
from tightseal.model.wire import ParsedKeysResponse

LOG = NoteSigner("tightseal/v1/log/test", SignatureType.ED25519, b"\1" * 32)
OTHER_LOG = NoteSigner("tightseal/v1/log/test", SignatureType.ED25519, b"\2" * 32)
A, B, STRANGER = (
    NoteSigner(f"witness.example/{n}", SignatureType.COSIGNATURE, bytes([n]) * 32)
    for n in (3, 4, 5)
)
ATTESTED = Ed25519PrivateKey.from_private_bytes(b"\6" * 32)
LEAF = leaf_hash(b"the release")
PROMISE = LogPromise(str(LOG.key), LEAF)
BOTH = (str(A.key), str(B.key))


def tree(size: int = 9, *, leaf: bytes = LEAF, index: int = 4) -> tuple[Any, Any]:
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    leaves[index] = leaf
    return EMPTY.extended(leaves)


def proof(*cosigners: NoteSigner, size: int = 9, signed: int | None = None) -> LogProof:
    """A proof to a checkpoint that these have cosigned, or an older one of theirs."""
    frontier, nodes = tree(size)
    note = sign_checkpoint(Checkpoint(LOG.key.name, size, frontier.root()), LOG)
    text = note.text
    if signed is not None:
        older, _ = tree(signed)
        text = Checkpoint(LOG.key.name, signed, older.root()).text()
    lines = tuple(one.sign(text, now=NOW) for one in cosigners)
    path = inclusion_proof(4, size, lambda level, at: nodes[level, at])
    return LogProof(4, path, Note(note.text, (*note.signatures, *lines)).encode())


def cosigned(**changes: Any) -> LogCover:
    root = tree(9)[0].root()
    return replace(LogCover(LogClass.COSIGNED, 9, root, witnesses=BOTH), **changes)


def anchored(**changes: Any) -> LogCover:
    root = tree(12)[0].root()
    return replace(LogCover(LogClass.ANCHORED, 12, root, AnchorClass.TPM), **changes)


@dataclass
class Case:
    """What a provider puts in a receipt, and what is done to it on its way."""

    made: LogProof
    cover: LogCover | None
    signer: Ed25519PrivateKey = ATTESTED
    promise: LogPromise = PROMISE
    of: bytes | None = None
    after: Callable[[dict[str, Any]], Any] = lambda _log: None

    def provider(self) -> Provider:
        def change(response: ParsedKeysResponse) -> ParsedKeysResponse:
            signed = None
            if self.cover is not None:
                data = self.cover.to_sign(
                    self.of or response.transcript_hash, self.promise
                )
                signed = SignedCover(self.cover, self.signer.sign(data))
            return replace(
                response,
                logged=PROMISE,
                log_proof=self.made.encode(),
                log_cover=signed,
            )

        def after(document: dict[str, Any]) -> None:
            self.after(document["receipt"]["log"])

        return Provider(signer=ATTESTED, response_before=change, response_after=after)


def receipt(case: Case, log: LogTerms | None = None) -> Receipt:
    provider = case.provider()
    exchange = Exchange(replace(terms(provider), log=log), (KeyRequest("disk"),))
    challenge = provider.challenge(exchange.challenge_request())
    report_data = exchange.check_challenge(challenge, now=NOW)
    evidence = Workload(provider.evidence).evidence(report_data)
    answer = provider.release(exchange.keys_request(evidence))
    return exchange.open_response(answer, now=NOW).receipt


def code_of(case: Case, log: LogTerms | None = None) -> Code:
    with pytest.raises(ProviderError) as refused:
        receipt(case, log)
    return refused.value.code


def asks(*signers: NoteSigner, threshold: int | None = None) -> LogTerms:
    keys = tuple(one.key for one in signers)
    wanted = len(keys) if threshold is None else threshold
    return LogTerms(least=LogClass.COSIGNED, witnesses=keys, threshold=wanted)


ANCHORED = LogTerms(least=LogClass.ANCHORED)
SIGNED = LogTerms(least=LogClass.SIGNED)
GOOD = Case(proof(A, B), cosigned())


def test_a_cosigned_receipt_meets_what_asks_for_its_witnesses_or_less() -> None:
    for log in (asks(A, B), asks(A), asks(A, STRANGER, threshold=1), ANCHORED, SIGNED):
        found = receipt(GOOD, log)
        assert found.log_class is LogClass.COSIGNED
        assert found.log_cover is not None
        assert found.log_cover.cover == cosigned()


def test_an_anchored_receipt_names_the_anchor() -> None:
    found = receipt(Case(proof(), anchored()), ANCHORED)
    assert found.log_class is LogClass.ANCHORED
    assert found.log_cover is not None
    assert found.log_cover.cover.anchor is AnchorClass.TPM


def test_a_receipt_without_a_cover_is_signed_and_no_more() -> None:
    assert receipt(Case(proof(), None), SIGNED).log_class is LogClass.SIGNED


def test_ones_own_witnesses_count_whatever_the_policy_names() -> None:
    case = Case(proof(A, B, STRANGER), cosigned())
    assert receipt(case, asks(STRANGER)).log_class is LogClass.COSIGNED


TOO_LOW: dict[str, tuple[Case, LogTerms]] = {
    "no_cover_for_anchored": (Case(proof(), None), ANCHORED),
    "no_cover_for_cosigned": (Case(proof(), None), asks(A)),
    "anchored_for_cosigned": (Case(proof(), anchored()), asks(A)),
    "cosigned_by_others_than_asked_for": (GOOD, asks(STRANGER)),
    "one_of_two": (Case(proof(A), cosigned(witnesses=BOTH[:1])), asks(A, B)),
    "cover_dropped_on_the_way": (
        replace(GOOD, after=lambda log: log.pop("cover")),
        ANCHORED,
    ),
    "cover_and_cosignatures_dropped_on_the_way": (
        replace(GOOD, after=lambda log: _strip(log, cover=True)),
        asks(A),
    ),
}


def _strip(log: dict[str, Any], *, cover: bool = False) -> None:
    """What a host does to a proof: the witnesses' lines are gone."""
    if cover:
        del log["cover"]
    lines = log["proof"].split("\n")
    kept = [line for line in lines if "witness.example" not in line]
    log["proof"] = "\n".join(kept)


@pytest.mark.parametrize("defect", TOO_LOW)
def test_too_low(defect: str) -> None:
    assert code_of(*TOO_LOW[defect]) is Code.LOG_CLASS_TOO_LOW


def test_a_provider_without_a_signed_log_meets_no_terms() -> None:
    provider = Provider()
    exchange = Exchange(replace(terms(provider), log=SIGNED), (KeyRequest("disk"),))
    challenge = provider.challenge(exchange.challenge_request())
    report_data = exchange.check_challenge(challenge, now=NOW)
    evidence = Workload(provider.evidence).evidence(report_data)
    with pytest.raises(ProviderError) as refused:
        exchange.open_response(
            provider.release(exchange.keys_request(evidence)), now=NOW
        )
    assert refused.value.code is Code.LOG_CLASS_TOO_LOW


REFUSED: dict[str, Case] = {
    "cosignatures_stripped_on_the_way": replace(GOOD, after=_strip),
    "one_cosignature_missing": Case(proof(A), cosigned()),
    "cosignature_over_an_older_tree": Case(proof(A, B, signed=5), cosigned()),
    "cosigned_by_nobody": Case(proof(), cosigned(witnesses=())),
    "cosigned_by_the_log_itself": Case(
        proof(A), cosigned(witnesses=(str(A.key), str(LOG.key)))
    ),
    "one_witness_named_twice": Case(
        proof(A), cosigned(witnesses=(str(A.key), str(A.key)))
    ),
    "witness_key_that_is_none": Case(proof(A), cosigned(witnesses=("no key",))),
    "cover_of_another_size": Case(proof(A, B), cosigned(size=10)),
    "cover_of_another_root": Case(proof(A, B), cosigned(root=bytes(32))),
    "entry_beyond_the_cosigned_head": Case(proof(A, B), cosigned(size=4)),
    "entry_beyond_the_anchored_head": Case(proof(), anchored(size=4)),
    "anchored_head_of_the_proofs_size_with_another_root": Case(
        proof(), anchored(size=9, root=bytes(32))
    ),
    "cover_of_class_signed": Case(
        proof(), cosigned(log_class=LogClass.SIGNED, witnesses=())
    ),
    "signed_by_another_key": Case(
        proof(A, B), cosigned(), signer=Ed25519PrivateKey.generate()
    ),
    "signed_for_another_exchange": Case(proof(A, B), cosigned(), of=bytes(64)),
    "signed_for_another_entry": Case(
        proof(A, B), cosigned(), promise=LogPromise(str(LOG.key), bytes(32))
    ),
    "signed_for_another_log": Case(
        proof(A, B), cosigned(), promise=LogPromise(str(OTHER_LOG.key), LEAF)
    ),
    "class_raised_on_the_way": Case(
        proof(A, B),
        anchored(),
        after=lambda log: log["cover"].update({"class": "cosigned"}),
    ),
    "anchor_raised_on_the_way": Case(
        proof(),
        anchored(anchor=AnchorClass.NONE),
        after=lambda log: log["cover"].update(anchor="tpm"),
    ),
    "witness_added_on_the_way": Case(
        proof(A, B),
        cosigned(witnesses=BOTH[:1]),
        after=lambda log: log["cover"].update(witnesses=list(BOTH)),
    ),
    "class_that_is_none": replace(
        GOOD, after=lambda log: log["cover"].update({"class": "blessed"})
    ),
    "more_witnesses_than_any": replace(
        GOOD, after=lambda log: log["cover"].update(witnesses=[BOTH[0]] * 17)
    ),
    "signature_of_no_length": replace(
        GOOD, after=lambda log: log["cover"].update(signature="AA")
    ),
}


@pytest.mark.parametrize("log", [None, ANCHORED], ids=["no_terms", "terms"])
@pytest.mark.parametrize("defect", REFUSED)
def test_refused(defect: str, log: LogTerms | None) -> None:
    assert code_of(REFUSED[defect], log) is Code.RESPONSE_INVALID


def test_a_forged_cosignature_under_a_known_name_is_refused() -> None:
    good = proof(A, B)
    forged = proof(STRANGER, B).checkpoint.decode().split("\n")
    lines = good.checkpoint.decode().split("\n")
    at = next(n for n, line in enumerate(lines) if A.key.name in line)
    other = next(line for line in forged if STRANGER.key.name in line)
    signature = base64.b64decode(other.rsplit(" ", 1)[1])[4:]
    text = base64.b64encode(A.key.key_id + signature).decode()
    lines[at] = f"{lines[at].rsplit(' ', 1)[0]} {text}"
    case = Case(replace(good, checkpoint="\n".join(lines).encode()), cosigned())
    assert code_of(case) is Code.RESPONSE_INVALID
    assert code_of(replace(case, cover=None), asks(A, B, threshold=1)) is (
        Code.LOG_CLASS_TOO_LOW
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"least": LogClass.COSIGNED},
        {"least": LogClass.ANCHORED, "witnesses": (A.key,), "threshold": 1},
        {"least": LogClass.COSIGNED, "witnesses": (A.key,)},
        {"least": LogClass.COSIGNED, "witnesses": (A.key,), "threshold": 2},
        {"least": LogClass.COSIGNED, "witnesses": (A.key, A.key), "threshold": 1},
    ],
    ids=["by_nobody", "not_asked_for", "by_none_of_them", "too_many", "twice"],
)
def test_terms_that_mean_less_than_they_say(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        LogTerms(**wrong)


def test_terms_from_text() -> None:
    parsed = LogTerms.parse(LogClass.COSIGNED, witnesses=BOTH, threshold=1)
    assert parsed == asks(A, B, threshold=1)
    with pytest.raises(SettingsError):
        LogTerms.parse(LogClass.COSIGNED, witnesses=("no key",), threshold=1)


# -- the command -------------------------------------------------------------------


@pytest.fixture
def provider() -> Provider:
    return GOOD.provider()


@pytest.fixture
def asked(key_command: list[str]) -> Iterator[list[str]]:
    yield [*key_command, "--purpose", "disk", "--json"]
    structlog.reset_defaults()


def test_the_command_asks_for_a_class_and_shows_it(
    asked: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--witness", BOTH[0], "--witness", BOTH[1]]
    assert main([*asked, "--log-class", "cosigned", *both]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["receipt"]["log_class"] == "cosigned"
    strange = ["--witness", BOTH[0], "--witness", str(STRANGER.key)]
    assert main([*asked, "--log-class", "cosigned", *strange]) == 1
    assert Code.LOG_CLASS_TOO_LOW.value in capsys.readouterr().err
    one = [*strange, "--witnesses-needed", "1"]
    assert main([*asked, "--log-class", "cosigned", *one]) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        ["--witness", BOTH[0]],
        ["--log-class", "cosigned"],
        ["--log-class", "anchored", "--witness", BOTH[0]],
        ["--log-class", "cosigned", "--witness", "no-key"],
    ],
    ids=["class_left_out", "nobody", "for_another_class", "no_key"],
)
def test_the_command_refuses_terms_that_mean_less_than_they_say(
    asked: list[str], wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*asked, *wrong]) == 2
    assert Code.SETTINGS_INVALID.value in capsys.readouterr().err
