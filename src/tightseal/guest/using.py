# SPDX-License-Identifier: Apache-2.0
"""Uses as a workload asks for them, and what it can check of their results.

A signature is checked under the public half, where that is known from elsewhere. Of a
shared secret or a plaintext nothing can be checked but that the provider signed it: a
peer that derives the same key, or an envelope whose sender is known by other means,
shows the rest.
"""

from __future__ import annotations

from tightseal.envelope.hpke import seal
from tightseal.errors import Code, KeyReleaseError, ProviderError, RequestError
from tightseal.guest.released import ReleasedKeys
from tightseal.keys.pairs import PRIVATE_BYTES
from tightseal.keys.using import verify_signature
from tightseal.model.exchange import Kem
from tightseal.model.generation import Generation, GenerationName
from tightseal.model.keypath import KeyPart, KeyRequest
from tightseal.model.keyuse import MAX_USE_CONTEXT_BYTES, KeyUse, unwrap_info
from tightseal.model.secret import Secret

__all__ = ["seal_for", "signature_of", "use_request"]


def use_request(
    use: KeyUse,
    purpose: str,
    label: str = "",
    *,
    generation: Generation = GenerationName.CURRENT,
    create: bool = False,
) -> KeyRequest:
    """The request for one use of a pair."""
    return KeyRequest(
        purpose, label, PRIVATE_BYTES, KeyPart.PRIVATE, generation, create, use
    )


def signature_of(
    keys: ReleasedKeys, request: KeyRequest, *, public: bytes | None
) -> bytes:
    """The signature that was asked for; 64 bytes.

    Args:
        keys: the answer.
        request: with ``sign``, as it was asked for.
        public: the public half that must have signed; ``None`` where it is not known,
            and then nothing is checked.

    Raises:
        ProviderError: ``response_invalid``, where another key signed, or nothing did.
        KeyReleaseError: ``key_path_invalid``, where it was not asked for.
    """
    signature = keys.result(request).reveal()
    if public is None or request.use is None:
        return signature
    (answer,) = (key for key in keys.keys if key.request == request)
    try:
        verify_signature(public, answer.type, request.use.data, signature)
    except KeyReleaseError as e:
        raise ProviderError(Code.RESPONSE_INVALID, e.detail) from e
    return signature


def seal_for(public: bytes, secret: Secret, *, context: bytes = b"") -> bytes:
    """Seal to the public half of an ``x25519`` pair, for the provider to unwrap.

    HPKE base mode, suite ``x25519`` of :mod:`tightseal.envelope.hpke`, under the
    ``info`` of ``unwrap_info(context)``. Anybody who has the public half can do this;
    it says nothing about who did.

    Args:
        public: 32 bytes.
        secret: 16 to 64 bytes.
        context: at most ``MAX_USE_CONTEXT_BYTES``; whoever unwraps names it again.

    Raises:
        RequestError: ``request_malformed``, for the context.
        KeyReleaseError: ``recipient_key_invalid``; ``envelope_invalid``, for the length
            of the secret.
    """
    if len(context) > MAX_USE_CONTEXT_BYTES:
        detail = f"context of {len(context)} bytes, at most {MAX_USE_CONTEXT_BYTES}"
        raise RequestError(Code.REQUEST_MALFORMED, detail)
    info = unwrap_info(context)
    return seal(secret, kem=Kem.X25519, recipient_key=public, info=info)
