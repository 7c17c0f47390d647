# SPDX-License-Identifier: Apache-2.0
"""Handing an existing key over: what a workload commits to, seals and gets back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from tightseal.envelope.hpke import seal
from tightseal.errors import Code, ProviderError, RequestError
from tightseal.guest.released import ReleasedKeys
from tightseal.model.exchange import Transcript
from tightseal.model.importing import (
    IMPORT_KEM,
    IMPORT_SALT_BYTES,
    MAX_IMPORT_BYTES,
    import_commitment,
)
from tightseal.model.keypath import KeyRequest
from tightseal.model.secret import Secret

__all__ = ["Import", "committed", "same_key", "sealed_imports"]


@dataclass(frozen=True, slots=True)
class Import:
    """A key that is handed over.

    Attributes:
        commitment: what the evidence commits to.
        salted: the salt, then the key: what is sealed.
    """

    commitment: bytes
    salted: Secret

    @classmethod
    def of(cls, key: Secret, entropy: Callable[[int], bytes]) -> Import:
        """Commit to a key under a fresh salt."""
        salt = entropy(IMPORT_SALT_BYTES)
        return cls(import_commitment(salt, key), Secret(salt + key.reveal()))

    def wipe(self) -> None:
        """Overwrite the copy of the key."""
        self.salted.wipe()


def committed(
    keys: tuple[KeyRequest, ...], imports: tuple[Import | None, ...]
) -> tuple[KeyRequest, ...]:
    """The key requests with the commitments of what they import.

    Raises:
        RequestError: ``request_malformed``, where there are not as many of both.
    """
    if not imports:
        return keys
    if len(imports) != len(keys):
        detail = f"{len(imports)} imports for {len(keys)} keys"
        raise RequestError(Code.REQUEST_MALFORMED, detail)
    return tuple(
        key if one is None else replace(key, imported=one.commitment)
        for key, one in zip(keys, imports, strict=True)
    )


def sealed_imports(
    imports: tuple[Import | None, ...],
    *,
    to: bytes | None,
    transcript: Transcript,
    evidence: bytes,
) -> tuple[bytes | None, ...]:
    """Seal each import to the provider, for this exchange and this evidence alone.

    Args:
        imports: in the order of the key requests.
        to: the import key of the checked challenge.
        transcript: of the exchange.
        evidence: that answers the challenge.

    Raises:
        ProviderError: ``challenge_invalid``, where there is no import key.
        KeyReleaseError: ``recipient_key_invalid``, ``kem_unsupported``.
    """
    if not any(imports):
        return ()
    if to is None:
        raise ProviderError(Code.CHALLENGE_INVALID, "no key to seal imports to")
    return tuple(
        None
        if one is None
        else seal(
            one.salted,
            kem=IMPORT_KEM,
            recipient_key=to,
            info=transcript.import_info(evidence, index=index),
            max_bytes=MAX_IMPORT_BYTES,
        )
        for index, one in enumerate(imports)
    )


def same_key(released: ReleasedKeys, key: Secret) -> ReleasedKeys:
    """The answer to the import of one key, where it holds that key again.

    Raises:
        ProviderError: ``response_invalid``; the answer is wiped.
    """
    (kept,) = released.keys
    if kept.secret != key:
        released.wipe()
        detail = "the key that came back is not the one that was handed over"
        raise ProviderError(Code.RESPONSE_INVALID, detail)
    return released
