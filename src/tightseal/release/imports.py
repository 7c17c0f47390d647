# SPDX-License-Identifier: Apache-2.0
"""Import: an existing key that a workload hands over, to be kept as a wrapped one.

    the import is granted -> its envelope opens -> it is what the evidence commits to
        -> it has the form of its type -> counted -> kept under its name

The workload's evidence commits to the key (``import_commitment``). The envelope is
sealed after the evidence was made, under an ``info`` that covers it. So nobody can put
another key in its place, and nobody can have this one kept under a name of his own: in
another exchange, and under another workload's evidence, the envelope does not open.
"""

from __future__ import annotations

import hmac

from tightseal.envelope.hpke import RecipientKey
from tightseal.errors import Code, KeyReleaseError, PolicyError
from tightseal.keys.pairs import public_half
from tightseal.model.exchange import Transcript
from tightseal.model.grant import Reason
from tightseal.model.importing import (
    IMPORT_KEM,
    IMPORT_SALT_BYTES,
    MAX_IMPORT_BYTES,
    import_commitment,
)
from tightseal.model.keypath import MIN_KEY_BYTES, KeyPath, KeyType
from tightseal.model.secret import Secret
from tightseal.model.wire import ParsedKeysRequest
from tightseal.platform.attested import AttestedKey

__all__ = ["Imports", "import_key_of"]


def import_key_of(key: AttestedKey) -> RecipientKey:
    """What imports are sealed to in the epoch of an attested key."""
    return RecipientKey.from_seed(IMPORT_KEM, key.import_seed)


class Imports:
    """The sealed imports of one verified request.

    Args:
        request: as it came.
        transcript: of the exchange.
        key: the attested key that the challenge named.
    """

    def __init__(
        self, request: ParsedKeysRequest, *, transcript: Transcript, key: AttestedKey
    ) -> None:
        self._request = request
        self._transcript = transcript
        self._key = key

    def opened(self, paths: tuple[KeyPath, ...]) -> tuple[Secret | None, ...]:
        """Each imported key, which the caller wipes; ``None`` for other requests.

        To be called only once policy has granted the paths.

        Raises:
            PolicyError: ``import_invalid``, where one does not open in this exchange,
                is not what the evidence commits to, has another form than its path, or
                is not the only one to create its key.
        """
        found: list[Secret | None] = []
        recipient = import_key_of(self._key)
        try:
            for index, path in enumerate(paths):
                found.append(self._opened(index, path, recipient))
        except BaseException:
            for secret in found:
                if secret is not None:
                    secret.wipe()
            raise
        finally:
            recipient.wipe()
        return tuple(found)

    def _opened(
        self, index: int, path: KeyPath, recipient: RecipientKey
    ) -> Secret | None:
        asked, sealed = self._request.keys[index], self._request.imports[index]
        if asked.imported is None or sealed is None:
            return None
        self._require_alone(index, path)
        info = self._transcript.import_info(self._request.evidence, index=index)
        try:
            salted = recipient.open(sealed, info=info, max_bytes=MAX_IMPORT_BYTES)
        except KeyReleaseError as e:
            detail = "an envelope sealed for this exchange", "one that does not open"
            raise _refused(path, *detail) from e
        salt, key = _parts(salted, path)
        try:
            if not hmac.compare_digest(import_commitment(salt, key), asked.imported):
                detail = "the key that the evidence commits to", "another"
                raise _refused(path, *detail)
            _check_form(key, path)
        except BaseException:
            key.wipe()
            raise
        return key

    def _require_alone(self, index: int, path: KeyPath) -> None:
        """Of two that create one key, one would be told another key than is kept."""
        keys = self._request.keys
        name = keys[index].purpose, keys[index].label
        if sum(key.create and (key.purpose, key.label) == name for key in keys) > 1:
            raise _refused(path, "one request that creates it", "several")


def _parts(salted: Secret, path: KeyPath) -> tuple[bytes, Secret]:
    """The salt and the key; an error further on shows neither of both together."""
    try:
        if len(salted) < IMPORT_SALT_BYTES + MIN_KEY_BYTES:
            raise _refused(path, "a salt and a key", f"{len(salted)} bytes")
        raw = salted.reveal()
        return raw[:IMPORT_SALT_BYTES], Secret(raw[IMPORT_SALT_BYTES:])
    finally:
        salted.wipe()


def _check_form(key: Secret, path: KeyPath) -> None:
    """It could have been made here; of a pair, its private half."""
    if len(key) != path.length:
        raise _refused(path, f"{path.length} bytes", f"{len(key)}")
    if not any(key.reveal()):
        raise _refused(path, "a key", "zeros alone")
    if path.key_type is KeyType.RAW:
        return
    try:
        public_half(key, path.key_type)
    except KeyReleaseError as e:
        expected = f"a private half of {path.key_type.value}"
        raise _refused(path, expected, "none") from e


def _refused(path: KeyPath, expected: str, got: str) -> PolicyError:
    label = f" {path.label!r}" if path.label else ""
    rule = f"import of {path.purpose}{label}"
    error = PolicyError(Code.IMPORT_INVALID, f"{rule}: expected {expected}, got {got}")
    error.reasons = (Reason(rule, expected, got, satisfied=False),)
    return error
