# SPDX-License-Identifier: Apache-2.0
"""The registry of labels: every report data, signature, MAC and KDF input has one.

A label separates domains: bytes made for one use can never be taken for another.
Labels are added, never changed; a key made under a changed label would be lost.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Label"]


class Label(StrEnum):
    """Every label in use. Distinct by construction and by test."""

    # report data
    REPORT_WORKLOAD = "tightseal/v1/report-data/workload"
    REPORT_ATTESTED_KEY = "tightseal/v1/report-data/attested-key"
    REPORT_QUOTE_PROOF = "tightseal/v1/report-data/quote-proof"
    REPORT_HANDOFF = "tightseal/v1/report-data/handoff"
    # signatures by the attested key
    SIGN_CHALLENGE = "tightseal/v1/signature/challenge"
    SIGN_RESPONSE = "tightseal/v1/signature/response"
    SIGN_PUBLIC_KEY = "tightseal/v1/signature/public-key"
    SIGN_HANDOFF = "tightseal/v1/signature/handoff"
    SIGN_LOG_COVER = "tightseal/v1/signature/log-cover"
    # signatures by a provider that joined
    SIGN_HANDOFF_CONFIRM = "tightseal/v1/signature/confirmed-handoff"
    # signatures by operators
    SIGN_ACTION = "tightseal/v1/signature/operator-action"
    # hashes and MACs
    TRANSCRIPT = "tightseal/v1/hash/transcript"
    CLAIMS = "tightseal/v1/hash/claims"
    SETTINGS = "tightseal/v1/hash/settings"
    HANDOFF = "tightseal/v1/hash/handoff"
    INVITATION = "tightseal/v1/hash/invitation"
    KEYRING_BRANCH = "tightseal/v1/hash/keyring-branch"
    KEYRING_SIDECAR = "tightseal/v1/hash/keyring-sidecar"
    NONCE_MAC = "tightseal/v1/mac/nonce"
    COLLATERAL_GUARD_MAC = "tightseal/v1/mac/collateral-guard"
    REDEEMED_NONCE = "tightseal/v1/hash/redeemed-nonce"
    LOG_ENTRY = "tightseal/v1/hash/log-entry"
    POLICY_ROOT = "tightseal/v1/hash/policy-root"
    IMPORT = "tightseal/v1/hash/import"
    KEY_RECORD = "tightseal/v1/hash/key-record"
    WRAPPED_RECORD = "tightseal/v1/hash/wrapped-record"
    LIMIT_RECORD = "tightseal/v1/hash/limit-record"
    KEYRING_ID = "tightseal/v1/hash/keyring-id"
    KEYRING_MAC = "tightseal/v1/mac/keyring"
    KEYRING_SLOT = "tightseal/v1/hash/keyring-slot"
    STATE_INDEX = "tightseal/v1/mac/state-index"
    STATE_LEAF = "tightseal/v1/hash/state-leaf"
    STATE_NODE = "tightseal/v1/hash/state-node"
    STATE_HEAD = "tightseal/v1/hash/state-head"
    # associated data of what is sealed
    SEAL_STATE_RECORD = "tightseal/v1/aead/state-record"
    SEAL_GENERATION = "tightseal/v1/aead/keyring-generation"
    SEAL_SLOT = "tightseal/v1/aead/keyring-slot"
    SEAL_KEYRING_ANCHOR = "tightseal/v1/aead/keyring-anchor"
    SEAL_WRAPPED_KEY = "tightseal/v1/aead/wrapped-key"
    SEAL_STATE_HEAD = "tightseal/v1/aead/state-head"
    SEAL_HELD_RESPONSE = "tightseal/v1/aead/held-response"
    # HPKE
    HPKE_INFO = "tightseal/v1/hpke/info"
    HPKE_HANDOFF = "tightseal/v1/hpke/handoff"
    HPKE_UNWRAP = "tightseal/v1/hpke/unwrap"
    HPKE_IMPORT = "tightseal/v1/hpke/import"
    # KDF: the chain, one label a level
    KDF_TRUST_DOMAIN = "tightseal/v1/kdf/trust-domain"
    KDF_TENANT = "tightseal/v1/kdf/tenant"
    KDF_WORKLOAD = "tightseal/v1/kdf/workload"
    KDF_PURPOSE = "tightseal/v1/kdf/purpose"
    KDF_LABEL = "tightseal/v1/kdf/label"
    KDF_KEY_PAIR = "tightseal/v1/kdf/key-pair"
    # KDF: the provider's own secrets
    KDF_IMPORT_KEY = "tightseal/v1/kdf/import-key"
    KDF_ATTESTED_KEY = "tightseal/v1/kdf/attested-key"
    KDF_TLS_KEY = "tightseal/v1/kdf/tls-key"
    KDF_NONCE_MAC = "tightseal/v1/kdf/nonce-mac"
    KDF_HELD_RESPONSE = "tightseal/v1/kdf/held-response"
    KDF_COLLATERAL_GUARD = "tightseal/v1/kdf/collateral-guard"
    KDF_KEYRING_SEAL = "tightseal/v1/kdf/keyring-seal"
    KDF_KEYRING_MAC = "tightseal/v1/kdf/keyring-mac"
    KDF_KEYRING_ANCHOR = "tightseal/v1/kdf/keyring-anchor"
    KDF_BRANCH_KEY = "tightseal/v1/kdf/branch-key"
    KDF_KEYRING_STATE = "tightseal/v1/kdf/keyring-state"
    KDF_SLOT = "tightseal/v1/kdf/slot-wrapping"
    KDF_SLOT_FACTORS = "tightseal/v1/kdf/slot-factors"
    KDF_WRAPPED_KEY = "tightseal/v1/kdf/wrapped-key"
    KDF_LOG_KEY = "tightseal/v1/kdf/log-key"
    KDF_NODE_RUN = "tightseal/v1/kdf/node-run"
    KDF_STATE_STORE = "tightseal/v1/kdf/state-store"
    KDF_STATE_SEAL = "tightseal/v1/kdf/state-seal"
    KDF_STATE_ONCE = "tightseal/v1/kdf/state-once"
    KDF_STATE_INDEX = "tightseal/v1/kdf/state-index"
