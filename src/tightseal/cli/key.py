# SPDX-License-Identifier: Apache-2.0
"""``tightseal key``: inside a workload, get one key from a provider."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

import structlog
from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.errors import Code, SettingsError
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.guest.client import Client
from tightseal.guest.collateral import judge_with, offline, online, stapled
from tightseal.guest.exchange import Terms
from tightseal.guest.pins import read_pin
from tightseal.guest.provider import ProviderCollateral
from tightseal.guest.released import Receipt, ReleasedKey, ReleasedKeys
from tightseal.model.exchange import Kem
from tightseal.model.generation import MAX_GENERATION, Generation, GenerationName
from tightseal.model.keypath import DEFAULT_KEY_BYTES, KeyPart, KeyRequest, KeyType
from tightseal.model.provider import ProviderIdentity
from tightseal.model.secret import Secret
from tightseal.model.wire import Proof
from tightseal.platform.door import open_platform

__all__ = ["key"]

MAX_FILE_BYTES: Final = 4 << 20
KEY_FILE_MODE: Final = 0o600


def key(
    *,
    provider: str,
    pin: Path,
    purpose: str,
    platform: str = "configfs-tsm",
    option: tuple[str, ...] = (),
    label: str = "",
    length: int = DEFAULT_KEY_BYTES,
    part: KeyPart = KeyPart.PRIVATE,
    generation: str = GenerationName.CURRENT.value,
    create: bool = False,
    out: Path | None = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
    reveal: bool = False,
    collateral: Path | None = None,
    pccs: tuple[str, ...] = (),
    kds: tuple[str, ...] = (),
    root_ca: Path | None = None,
    event_log: Path | None = None,
    kem: Kem = Kem.MLKEM768_X25519,
    proof: Proof = Proof.ATTESTED_KEY,
) -> int:
    """Get a key: 0 got it, 1 refused or not trusted, 2 could not be asked.

    The provider is checked before evidence is made: it must be what the pin says. Its
    evidence is judged with the offline bundle where one is given, else with a PCCS or
    KDS, else with collateral that the provider sends along.

    Args:
        provider: address of the provider, such as http://10.0.2.2:3442.
        pin: file that says who the provider must be; part of the measured image.
        purpose: what the key is for, such as disk.
        platform: what this workload stands on: configfs-tsm, gramine, sev-guest, sim.
        option: an option of the platform, as name=value; may be given again.
        label: tells several keys of one purpose apart.
        length: of the key, bytes; 32 for key pairs.
        part: of a key pair: the private half, or the public one, which is no secret.
        generation: which version of the provider's root: current, previous, a number.
        create: make a wrapped key, once; without this it is opened, and must be there.
        out: new file for the key's bytes, mode 0600.
        as_json: print the receipt as JSON; the key only with --reveal.
        reveal: with --json, print the key too, in hex.
        collateral: offline bundle for the provider's evidence: a file, or for SNP a
            folder.
        pccs: address of a PCCS; may be given again.
        kds: address of AMD's KDS; may be given again.
        root_ca: root certificate of a simulated world, to be trusted too.
        event_log: event log to send along, bound into the evidence.
        kem: of the envelope.
        proof: whether the provider proves the answer by its attested key or a quote.
    """
    which = _generation(generation)
    if out is None and not as_json:
        detail = "nowhere to put the key: give --out FILE, or --json"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    _log_to_stderr()
    client = Client(
        provider,
        source=open_platform(platform, _options(option)),
        terms=Terms(
            pin=read_pin(pin),
            collateral=_collateral(collateral, pccs, kds, root_ca),
            kem=kem,
        ),
    )
    log = None if event_log is None else _read(event_log)
    with client:
        keys = client.keys(
            KeyRequest(purpose, label, length, part, which, create),
            proof=proof,
            event_log=log,
        )
    with keys:
        got = keys.key(purpose, label, generation=which)
        if out is not None:
            _write(out, got.secret)
        if keys.simulated:
            ui.note("the provider is simulated: this key protects nothing")
        if as_json:
            ui.print_json(_document(keys, got, reveal=reveal))
        else:
            what = got.type.value + (", public half" * (part is KeyPart.PUBLIC))
            verb = "created" if create else "released"
            ui.verdict(verb, f"{out} ({what})", tone="yes")
    return ui.EXIT_YES


def _generation(text: str) -> Generation:
    if text in set(GenerationName):
        return GenerationName(text)
    if text.isascii() and text.isdigit() and int(text) <= MAX_GENERATION:
        return int(text)
    detail = f"--generation {text!r}: expected current, previous or a number"
    raise SettingsError(Code.SETTINGS_INVALID, detail)


def _log_to_stderr() -> None:
    """Keep the log off stdout, which belongs to the result."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


def _options(given: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            detail = f"--option {text!r}: expected name=value"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        options[name] = value
    return options


def _collateral(
    bundle: Path | None,
    pccs: tuple[str, ...],
    kds: tuple[str, ...],
    root_ca: Path | None,
) -> ProviderCollateral:
    roots = VENDOR_ROOTS
    if root_ca is not None:
        roots = with_simulated(roots, _read(root_ca))
    judge = judge_with(roots=roots)
    if bundle is not None:
        return offline(bundle, judge=judge)
    if pccs or kds:
        return online(pccs=pccs, kds=kds, judge=judge)
    return stapled(judge=judge)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as e:
        detail = f"{path}: {e.strerror}"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    if len(data) > MAX_FILE_BYTES:
        detail = f"{path}: longer than {MAX_FILE_BYTES} bytes"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return data


def _write(path: Path, secret: Secret) -> None:
    """Put the key into a new file that nobody else may read, whole or not at all."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, KEY_FILE_MODE)
    except OSError as e:
        detail = f"{path}: {e.strerror}; the key was not written"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secret.reveal())
            file.flush()
            os.fsync(file.fileno())
    except OSError as e:
        with suppress(OSError):
            path.unlink()
        detail = f"{path}: {e.strerror}; the key was not written"
        raise SettingsError(Code.SETTINGS_INVALID, detail) from e


def _document(
    keys: ReleasedKeys, key: ReleasedKey, *, reveal: bool
) -> dict[str, object]:
    """The receipt, and of the key only what is no secret, unless told otherwise."""
    request = key.request
    public = None if key.type is KeyType.RAW else key.public_half().hex()
    secret = reveal and key.part is KeyPart.PRIVATE
    return {
        "purpose": request.purpose,
        "label": request.label,
        "length": request.length,
        "type": key.type.value,
        "part": key.part.value,
        "generation": key.generation,
        "key": key.secret.reveal().hex() if secret else None,
        "public_key": public,
        "simulated": keys.simulated,
        "provider": _provider(keys.provider),
        "receipt": _receipt(keys.receipt),
    }


def _provider(identity: ProviderIdentity) -> dict[str, object]:
    return {
        "tee": identity.tee,
        "measurement": identity.measurement.hex(),
        "keyring_id": identity.keyring_id.hex(),
        "policy_root": identity.policy_root and identity.policy_root.hex(),
        "settings_digest": identity.settings_digest.hex(),
    }


def _receipt(receipt: Receipt) -> dict[str, object]:
    policy = receipt.policy
    return {
        "entry_id": receipt.entry_id.hex(),
        "issued_at": receipt.issued_at,
        "signature": receipt.signature.hex(),
        "public_key": receipt.public_key.hex(),
        "transcript_hash": receipt.transcript_hash.hex(),
        "trust_domain": receipt.trust_domain,
        "single_verifier": receipt.single_verifier,
        "policy": policy and {"version": policy.version, "digest": policy.digest.hex()},
        "anchor": receipt.anchor and receipt.anchor.value,
        "quote": receipt.quote and receipt.quote.hex(),
    }
