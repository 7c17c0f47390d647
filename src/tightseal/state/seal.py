# SPDX-License-Identifier: Apache-2.0
"""Sealing of records and heads under the provider's key.

A sealed value is ``version (1) || salt (20) || nonce (12) || AES-256-GCM``. Each one
has a key of its own, HMAC-SHA256 over the salt, so that random nonces never wear out.
The associated data is deterministic CBOR of store id, trust domain, kind, index,
version and expiry. The index is a keyed hash of the name: the host learns no names,
and cannot choose where a name lands in the map.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tightseal.errors import Code, RequestError, ServiceError
from tightseal.model.canonical import Value, decode, encode, labelled
from tightseal.model.labels import Label
from tightseal.model.state import (
    MAX_KIND_CHARS,
    MAX_RECORD_NAME_BYTES,
    MAX_VALUE_BYTES,
)
from tightseal.state.faults import tampered, too_large
from tightseal.state.rows import Row

if TYPE_CHECKING:
    from tightseal.model.secret import Secret

__all__ = ["STORE_KEY_BYTES", "Sealer", "check_kind", "check_name", "leaf_digest"]

STORE_KEY_BYTES: Final = 32
"""Shortest key of a store."""

_FORM: Final = b"\x01"
_SALT_BYTES: Final = 20
_NONCE_BYTES: Final = 12
_PREFIX_BYTES: Final = len(_FORM) + _SALT_BYTES + _NONCE_BYTES
_PLAIN_MEMBERS: Final = 2
_KIND: Final = re.compile(rf"[a-z][a-z0-9-]{{0,{MAX_KIND_CHARS - 1}}}")


def check_kind(kind: str) -> None:
    """Refuse what is no kind; raises ``internal``, since kinds are the code's own."""
    if _KIND.fullmatch(kind) is None:
        raise ServiceError(Code.INTERNAL, f"not a kind of record: {kind!r}")


def check_name(name: str) -> None:
    """Refuse a name that is empty or too long; raises ``state_too_large``."""
    size = len(name.encode("utf-8", "surrogatepass"))
    if not 1 <= size <= MAX_RECORD_NAME_BYTES:
        detail = f"name of {size} bytes, expected 1 to {MAX_RECORD_NAME_BYTES}"
        raise too_large(detail)
    if any("\ud800" <= c <= "\udfff" for c in name):
        raise ServiceError(Code.INTERNAL, "name of a record is not Unicode")


def leaf_digest(row: Row) -> bytes:
    """What the map commits to of one record: SHA-256 over everything in its row."""
    fields: list[Value] = [
        row.kind,
        row.index,
        row.version,
        row.expires_at,
        row.sealed,
    ]
    return hashlib.sha256(labelled(Label.STATE_LEAF, fields)).digest()


class Sealer:
    """Seals and opens for one provider in one trust domain.

    Args:
        key: the store's key, 32 bytes or more, derived from the provider's root under
            ``KDF_STATE_STORE``.
        trust_domain: as text; what was sealed in another one does not open.

    Raises:
        ServiceError: ``settings_invalid``, where the key is short or all zero.
    """

    __slots__ = ("_index_key", "_seal_key", "_trust_domain")

    def __init__(self, key: Secret, *, trust_domain: str) -> None:
        if len(key) < STORE_KEY_BYTES or not any(key.reveal()):
            detail = f"state key: expected {STORE_KEY_BYTES} bytes or more, not zero"
            raise ServiceError(Code.SETTINGS_INVALID, detail)
        self._seal_key = _derive(key, Label.KDF_STATE_SEAL)
        self._index_key = _derive(key, Label.KDF_STATE_INDEX)
        self._trust_domain = trust_domain

    def index(self, kind: str, name: str) -> bytes:
        """Where a name lands in the map of its kind; 32 bytes."""
        covered = labelled(Label.STATE_INDEX, [kind, name])
        return hmac.digest(self._index_key, covered, "sha256")

    def seal_record(
        self,
        store_id: bytes,
        *,
        kind: str,
        name: str,
        value: bytes,
        version: int,
        expires_at: int | None,
    ) -> Row:
        """Seal a value into a row.

        Raises:
            ServiceError: ``state_too_large``.
        """
        if len(value) > MAX_VALUE_BYTES:
            detail = f"{kind}: value of {len(value)} bytes, at most {MAX_VALUE_BYTES}"
            raise too_large(detail)
        bare = Row(kind, self.index(kind, name), version, expires_at, b"")
        sealed = self._seal(encode([name, value]), self._record_data(store_id, bare))
        return Row(kind, bare.index, version, expires_at, sealed)

    def open_record(self, store_id: bytes, row: Row) -> tuple[str, bytes]:
        """Name and value of a row; raises ``state_tampered``.

        That the row is the live one is not known here: the map says so.
        """
        plain = self._open(row.sealed, self._record_data(store_id, row), row.kind)
        try:
            parts = decode(plain)
        except RequestError as e:
            raise tampered(f"{row.kind}: sealed content is malformed") from e
        if isinstance(parts, list) and len(parts) == _PLAIN_MEMBERS:
            name, value = parts
            if isinstance(name, str) and isinstance(value, bytes):
                if not hmac.compare_digest(self.index(row.kind, name), row.index):
                    raise tampered(f"{row.kind}: sealed under another name")
                return name, value
        raise tampered(f"{row.kind}: sealed content is malformed")

    def seal_head(self, store_id: bytes, body: Value) -> bytes:
        """Seal the body of a head."""
        return self._seal(encode(body), self._head_data(store_id))

    def open_head(self, store_id: bytes, sealed: bytes) -> Value:
        """The body of a head; raises ``state_tampered``."""
        plain = self._open(sealed, self._head_data(store_id), "head")
        try:
            return decode(plain)
        except RequestError as e:
            raise tampered("head: sealed content is malformed") from e

    def head_digest(self, store_id: bytes, body: Value) -> bytes:
        """SHA-256 that stands for a head outside the store."""
        covered = labelled(Label.STATE_HEAD, [store_id, self._trust_domain, body])
        return hashlib.sha256(covered).digest()

    def _record_data(self, store_id: bytes, row: Row) -> bytes:
        fields: dict[str, Value] = {
            "store": store_id,
            "trust_domain": self._trust_domain,
            "kind": row.kind,
            "name": row.index,
            "version": row.version,
            "expires_at": row.expires_at,
        }
        return labelled(Label.SEAL_STATE_RECORD, fields)

    def _head_data(self, store_id: bytes) -> bytes:
        return labelled(Label.SEAL_STATE_HEAD, [store_id, self._trust_domain])

    def _once_key(self, salt: bytes) -> AESGCM:
        covered = labelled(Label.KDF_STATE_ONCE, salt)
        return AESGCM(hmac.digest(self._seal_key, covered, "sha256"))

    def _seal(self, plain: bytes, data: bytes) -> bytes:
        fresh = secrets.token_bytes(_SALT_BYTES + _NONCE_BYTES)
        salt, nonce = fresh[:_SALT_BYTES], fresh[_SALT_BYTES:]
        return _FORM + fresh + self._once_key(salt).encrypt(nonce, plain, data)

    def _open(self, sealed: bytes, data: bytes, what: str) -> bytes:
        salt = sealed[1 : 1 + _SALT_BYTES]
        nonce = sealed[1 + _SALT_BYTES : _PREFIX_BYTES]
        if sealed[:1] != _FORM or len(nonce) != _NONCE_BYTES:
            raise tampered(f"{what}: not a sealed value of this version")
        try:
            return self._once_key(salt).decrypt(nonce, sealed[_PREFIX_BYTES:], data)
        except InvalidTag as e:
            detail = f"{what}: changed, or sealed by another key or trust domain"
            raise tampered(detail) from e


def _derive(key: Secret, label: Label) -> bytes:
    return HKDF(
        algorithm=hashes.SHA256(), length=32, salt=None, info=labelled(label, None)
    ).derive(key.reveal())
