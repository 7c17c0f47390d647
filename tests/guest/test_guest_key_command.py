# SPDX-License-Identifier: Apache-2.0
"""``tightseal key`` over key pairs: which half goes where, and what is shown of it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from scripted_provider import (
    POLICY,
    PUBLIC_HALF,
    Provider,
)

from tightseal.cli import main
from tightseal.model.keypath import KeyPart, KeyType
from tightseal.model.wire import KeysRequest, decode_json

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.fixture
def provider() -> Provider:
    return Provider(types={("id", ""): KeyType.ED25519})


@pytest.fixture
def arguments(key_command: list[str]) -> list[str]:
    return [*key_command, "--purpose", "id"]


def document(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    shown: dict[str, Any] = json.loads(capsys.readouterr().out)
    return shown


def test_private_half_is_hidden_and_its_public_half_is_not(
    provider: Provider, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    provider.keys[("id", "")] = SEED
    shown = document(arguments, capsys)
    assert shown["key"] is None
    assert (shown["type"], shown["part"], shown["generation"]) == (
        "ed25519",
        "private",
        0,
    )
    assert shown["public_key"] == PUBLIC_HALF.hex()
    assert SEED.hex() not in json.dumps(shown)
    assert document([*arguments, "--reveal"], capsys)["key"] == SEED.hex()


def test_public_half_is_asked_for_alone(
    provider: Provider,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    provider.keys[("id", "")] = PUBLIC_HALF
    out = tmp_path / "id.pub"
    more = ["--part", "public", "--out", str(out), "--reveal"]
    shown = document([*arguments, *more], capsys)
    assert out.read_bytes() == PUBLIC_HALF
    assert (shown["part"], shown["key"]) == ("public", None)
    assert shown["public_key"] == PUBLIC_HALF.hex()
    request = decode_json(provider.requests[-1][1], KeysRequest).parsed()
    assert [k.part for k in request.keys] == [KeyPart.PUBLIC]


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("private", SEED, "(ed25519)"),
        ("public", PUBLIC_HALF, "(ed25519, public half)"),
    ],
)
def test_what_was_written_is_said(
    provider: Provider,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    part: str,
    value: bytes,
    said: str,
) -> None:
    provider.keys[("id", "")] = value
    out = tmp_path / "key"
    assert main([*arguments, "--part", part, "--out", str(out)]) == 0
    captured = capsys.readouterr()
    assert said in captured.out
    assert value.hex() not in captured.out + captured.err


@pytest.mark.parametrize("create", [True, False])
def test_a_key_is_created_where_that_is_said(
    provider: Provider,
    arguments: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    create: bool,
) -> None:
    provider.keys[("id", "")] = SEED
    out = tmp_path / "key"
    more = ["--create"] if create else []
    assert main([*arguments, *more, "--out", str(out)]) == 0
    assert ("created" if create else "released") in capsys.readouterr().out
    request = decode_json(provider.requests[-1][1], KeysRequest).parsed()
    assert [key.create for key in request.keys] == [create]


def test_raw_key_has_no_public_half_to_show(
    provider: Provider, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    provider.types.clear()
    shown = document(arguments, capsys)
    assert (shown["type"], shown["public_key"]) == ("raw", None)


def test_receipt_names_policy_and_anchor(
    arguments: list[str], provider: Provider, capsys: pytest.CaptureFixture[str]
) -> None:
    provider.keys[("id", "")] = SEED
    receipt = document(arguments, capsys)["receipt"]
    assert receipt["policy"] == {"version": 7, "digest": POLICY.digest.hex()}
    assert receipt["anchor"] == "none"


def test_public_half_of_another_length_cannot_be_asked_for(
    provider: Provider, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--part", "public", "--length", "33", "--json"]) != 0
    assert provider.requests == []
    assert capsys.readouterr().out == ""


def test_unknown_part_is_refused(
    provider: Provider, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--part", "both", "--json"]) != 0
    assert provider.requests == []
    assert "--part" in capsys.readouterr().err
