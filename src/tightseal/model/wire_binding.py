# SPDX-License-Identifier: Apache-2.0
"""The provider's identity and attested key in the HTTP API's JSON."""

from __future__ import annotations

from typing import Annotated

import msgspec

from tightseal.model.base64url import decode_base64url, encode_base64url
from tightseal.model.provider import AttestedKeyBinding, ProviderIdentity
from tightseal.model.wire_fields import (
    HASH_BYTES,
    MAX_MEASUREMENT_BYTES,
    MIN_MEASUREMENT_BYTES,
    PUBLIC_KEY_BYTES,
    SETTINGS_DIGEST_BYTES,
    Seconds,
    ShortText,
    exactly,
)

__all__ = ["AttestedKeyBindingJson", "ProviderIdentityJson"]


class ProviderIdentityJson(msgspec.Struct, frozen=True):
    """``ProviderIdentity`` on the wire."""

    tee: Annotated[str, msgspec.Meta(pattern=r"^(tdx|sgx|snp)(?!\n)$")]
    measurement: ShortText
    keyring_id: ShortText
    policy_root: ShortText | None
    settings_digest: ShortText

    @classmethod
    def of(cls, identity: ProviderIdentity) -> ProviderIdentityJson:
        """Encode an identity."""
        root = identity.policy_root
        return cls(
            tee=identity.tee,
            measurement=encode_base64url(identity.measurement),
            keyring_id=encode_base64url(identity.keyring_id),
            policy_root=None if root is None else encode_base64url(root),
            settings_digest=encode_base64url(identity.settings_digest),
        )

    def parsed(self) -> ProviderIdentity:
        """Decode an identity; raises ``request_malformed``."""
        root = self.policy_root
        return ProviderIdentity(
            tee=self.tee,
            measurement=decode_base64url(
                self.measurement,
                field="measurement",
                min_bytes=MIN_MEASUREMENT_BYTES,
                max_bytes=MAX_MEASUREMENT_BYTES,
            ),
            keyring_id=exactly(self.keyring_id, "keyring_id", HASH_BYTES),
            policy_root=None
            if root is None
            else exactly(root, "policy_root", HASH_BYTES),
            settings_digest=exactly(
                self.settings_digest, "settings_digest", SETTINGS_DIGEST_BYTES
            ),
        )


class AttestedKeyBindingJson(msgspec.Struct, frozen=True):
    """``AttestedKeyBinding`` on the wire."""

    identity: ProviderIdentityJson
    public_key: ShortText
    not_before: Seconds
    not_after: Seconds
    tls_key_hash: ShortText | None

    @classmethod
    def of(cls, binding: AttestedKeyBinding) -> AttestedKeyBindingJson:
        """Encode a binding."""
        tls = binding.tls_key_hash
        return cls(
            identity=ProviderIdentityJson.of(binding.identity),
            public_key=encode_base64url(binding.public_key),
            not_before=binding.not_before,
            not_after=binding.not_after,
            tls_key_hash=None if tls is None else encode_base64url(tls),
        )

    def parsed(self) -> AttestedKeyBinding:
        """Decode a binding; raises ``request_malformed``."""
        tls = self.tls_key_hash
        return AttestedKeyBinding(
            identity=self.identity.parsed(),
            public_key=exactly(self.public_key, "public_key", PUBLIC_KEY_BYTES),
            not_before=self.not_before,
            not_after=self.not_after,
            tls_key_hash=None
            if tls is None
            else exactly(tls, "tls_key_hash", HASH_BYTES),
        )
