# SPDX-License-Identifier: Apache-2.0
"""``tightseal key``: inside a workload, get one key from a provider."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final

from cyclopts import Parameter

from tightseal.cli import ui
from tightseal.cli.options import log_to_stderr
from tightseal.cli.provider_collateral import provider_collateral
from tightseal.errors import Code, SettingsError
from tightseal.guest.client import Client
from tightseal.guest.exchange import Terms
from tightseal.guest.logterms import LogTerms
from tightseal.guest.pins import read_pin
from tightseal.guest.released import Receipt, ReleasedKey, ReleasedKeys
from tightseal.guest.using import signature_of
from tightseal.model.exchange import Kem
from tightseal.model.generation import MAX_GENERATION, Generation, GenerationName
from tightseal.model.keypath import (
    DEFAULT_KEY_BYTES,
    MAX_KEY_BYTES,
    MIN_KEY_BYTES,
    KeyPart,
    KeyRequest,
    KeyType,
)
from tightseal.model.keyuse import KeyUse, Operation
from tightseal.model.logclass import LogClass
from tightseal.model.provider import ProviderIdentity
from tightseal.model.secret import Secret
from tightseal.model.tls import TlsTrust
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
    use: Operation | None = None,
    input_file: Annotated[Path | None, Parameter("--input")] = None,
    context: str = "",
    public: str | None = None,
    import_file: Annotated[Path | None, Parameter("--import")] = None,
    out: Path | None = None,
    as_json: Annotated[bool, Parameter("--json")] = False,
    reveal: bool = False,
    collateral: Path | None = None,
    pccs: tuple[str, ...] = (),
    kds: tuple[str, ...] = (),
    root_ca: Path | None = None,
    event_log: Path | None = None,
    log_class: LogClass | None = None,
    witness: tuple[str, ...] = (),
    witnesses_needed: int = 0,
    tls: TlsTrust = TlsTrust.PUBLIC_CA,
    kem: Kem = Kem.MLKEM768_X25519,
    proof: Proof = Proof.ATTESTED_KEY,
) -> int:
    """Get a key, or have it used: 0 done, 1 refused or untrusted, 2 could not ask.

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
        use: let the provider sign, agree or unwrap with a private half that stays
            there; the result takes the place of the key.
        input_file: what it is used on: the message, the public key of the peer, or
            the envelope.
        context: of unwrap: the text that the envelope was sealed under.
        public: of sign: the public half, in hex; the signature must verify under it.
        import_file: an existing key, its raw bytes, to be kept by the provider under
            this purpose from now on; it must not be there yet.
        out: new file for the bytes of the key or result, mode 0600.
        as_json: print the receipt as JSON; a key or secret result only with --reveal.
        reveal: with --json, print the key or result too, in hex.
        collateral: offline bundle for the provider's evidence: a file, or for SNP a
            folder.
        pccs: address of a PCCS; may be given again.
        kds: address of AMD's KDS; may be given again.
        root_ca: root certificate of a simulated world, to be trusted too.
        event_log: event log to send along, bound into the evidence.
        log_class: who must have the release's entry in the provider's log, at least:
            signed, anchored, or cosigned by these witnesses.
        witness: verifier key of a witness that counts; may be given again.
        witnesses_needed: how many of them must have cosigned; all, where not given.
        tls: how the certificate of an https provider is judged: by public CAs, not at
            all, since the exchange protects itself, or by the evidence in it.
        kem: of the envelope.
        proof: whether the provider proves the answer by its attested key or a quote.
    """
    which = _generation(generation)
    imported = _imported(import_file, use, part)
    if out is None and not as_json and imported is None:
        detail = "nowhere to put the key: give --out FILE, or --json"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    wanted = _use(use, input_file, context, public)
    signer = None if public is None else _hex(public, "--public")
    request = KeyRequest(purpose, label, length, part, which, create, wanted)
    log_to_stderr()
    client = Client(
        provider,
        source=open_platform(platform, _options(option)),
        terms=Terms(
            pin=read_pin(pin),
            collateral=provider_collateral(
                collateral, pccs=pccs, kds=kds, root_ca=root_ca
            ),
            kem=kem,
            log=_log_terms(log_class, witness, witnesses_needed),
        ),
        tls=tls,
    )
    log = None if event_log is None else _read(event_log)
    with client:
        if imported is None:
            keys = client.keys(request, proof=proof, event_log=log)
        else:
            keys = client.import_key(
                purpose, imported, label, proof=proof, event_log=log
            )
    with keys:
        (got,) = keys.keys
        if signer is not None:
            signature_of(keys, request, public=signer)
        if out is not None:
            _write(out, got.secret)
        if keys.simulated:
            ui.note("the provider is simulated: this key protects nothing")
        if as_json:
            ui.print_json(_document(keys, got, reveal=reveal))
        else:
            _say(got, out)
    return ui.EXIT_YES


def _log_terms(
    least: LogClass | None, witnesses: tuple[str, ...], needed: int
) -> LogTerms | None:
    if least is None:
        if witnesses or needed:
            detail = "--witness and --witnesses-needed go with --log-class cosigned"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        return None
    threshold = needed or len(witnesses)
    return LogTerms.parse(least, witnesses=witnesses, threshold=threshold)


def _say(got: ReleasedKey, out: Path | None) -> None:
    what, verb = got.type.value, "created" if got.request.create else "released"
    if got.request.imported is not None:
        verb = "imported"
    if got.part is KeyPart.PUBLIC:
        what += ", public half"
    if got.request.use is not None:
        what += f", {got.request.use.operation.value}"
        verb = "created and used" if got.request.create else "used"
    place = got.request.purpose if out is None else str(out)
    ui.verdict(verb, f"{place} ({what})", tone="yes")


def _imported(file: Path | None, use: Operation | None, part: KeyPart) -> Secret | None:
    if file is None:
        return None
    if use is not None or part is not KeyPart.PRIVATE:
        detail = "--import keeps a whole key: it goes with neither --use nor --part"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    key = Secret(_read(file))
    if not MIN_KEY_BYTES <= len(key) <= MAX_KEY_BYTES:
        bounds = f"{MIN_KEY_BYTES} to {MAX_KEY_BYTES}"
        detail = f"{file}: {len(key)} bytes, expected a key of {bounds}"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return key


def _use(
    operation: Operation | None, file: Path | None, context: str, public: str | None
) -> KeyUse | None:
    if operation is None:
        if file is not None or context or public is not None:
            detail = "--input, --context and --public go with --use"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        return None
    if file is None:
        detail = f"--use {operation.value}: nothing to use it on: give --input FILE"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    if public is not None and operation is not Operation.SIGN:
        detail = "--public goes with --use sign"
        raise SettingsError(Code.SETTINGS_INVALID, detail)
    return KeyUse(operation, _read(file), context.encode())


def _hex(text: str, option: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as e:
        raise SettingsError(Code.SETTINGS_INVALID, f"{option}: not hex") from e


def _generation(text: str) -> Generation:
    if text in set(GenerationName):
        return GenerationName(text)
    if text.isascii() and text.isdigit() and int(text) <= MAX_GENERATION:
        return int(text)
    detail = f"--generation {text!r}: expected current, previous or a number"
    raise SettingsError(Code.SETTINGS_INVALID, detail)


def _options(given: tuple[str, ...]) -> dict[str, str]:
    options = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name:
            detail = f"--option {text!r}: expected name=value"
            raise SettingsError(Code.SETTINGS_INVALID, detail)
        options[name] = value
    return options


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
    request, use = key.request, key.request.use
    known = key.type is not KeyType.RAW and use is None
    secret = reveal and key.part is KeyPart.PRIVATE and use is None
    document = {
        "purpose": request.purpose,
        "label": request.label,
        "length": request.length,
        "type": key.type.value,
        "part": key.part.value,
        "generation": key.generation,
        "key": key.secret.reveal().hex() if secret else None,
        "public_key": key.public_half().hex() if known else None,
        "simulated": keys.simulated,
        "request_id": keys.request_id,
        "provider": _provider(keys.provider),
        "receipt": _receipt(keys.receipt),
    }
    if use is not None:
        shown = reveal or use.operation is Operation.SIGN
        document["use"] = use.operation.value
        document["result"] = key.secret.reveal().hex() if shown else None
    return document


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
        "log_class": receipt.log_class and receipt.log_class.value,
        "quote": receipt.quote and receipt.quote.hex(),
    }
