# SPDX-License-Identifier: Apache-2.0
import re
from itertools import permutations

from tightseal.model import canonical
from tightseal.model.labels import Label

KINDS = {"report-data", "signature", "hash", "mac", "aead", "hpke", "kdf"}


def test_labels_are_distinct() -> None:
    assert len(set(Label.__members__.values())) == len(Label.__members__)
    assert len({label.value.casefold() for label in Label}) == len(Label)


def test_no_label_is_a_prefix_of_another() -> None:
    for one, other in permutations(Label, 2):
        assert not other.value.startswith(one.value)


def test_no_labelled_encoding_is_a_prefix_of_another() -> None:
    for one, other in permutations(Label, 2):
        start = canonical.labelled(one, None)[:-1]
        assert not canonical.labelled(other, None).startswith(start)


def test_labels_have_one_form() -> None:
    for label in Label:
        form = re.fullmatch(r"tightseal/v1/([a-z-]+)/[a-z0-9-]+", label.value)
        assert form, label
        assert form[1] in KINDS, label


def test_published_labels_never_change() -> None:
    """Keys made under a changed label would be lost."""
    published = {
        "KDF_TRUST_DOMAIN": "tightseal/v1/kdf/trust-domain",
        "KDF_TENANT": "tightseal/v1/kdf/tenant",
        "KDF_WORKLOAD": "tightseal/v1/kdf/workload",
        "KDF_PURPOSE": "tightseal/v1/kdf/purpose",
        "KDF_LABEL": "tightseal/v1/kdf/label",
        "KDF_ATTESTED_KEY": "tightseal/v1/kdf/attested-key",
        "KDF_TLS_KEY": "tightseal/v1/kdf/tls-key",
        "KDF_NONCE_MAC": "tightseal/v1/kdf/nonce-mac",
        "KDF_KEYRING_SEAL": "tightseal/v1/kdf/keyring-seal",
        "KDF_KEYRING_MAC": "tightseal/v1/kdf/keyring-mac",
        "KDF_KEYRING_ANCHOR": "tightseal/v1/kdf/keyring-anchor",
        "KEYRING_MAC": "tightseal/v1/mac/keyring",
        "KEYRING_ID": "tightseal/v1/hash/keyring-id",
        "SEAL_GENERATION": "tightseal/v1/aead/keyring-generation",
        "SEAL_SLOT": "tightseal/v1/aead/keyring-slot",
        "SEAL_KEYRING_ANCHOR": "tightseal/v1/aead/keyring-anchor",
        "REPORT_WORKLOAD": "tightseal/v1/report-data/workload",
        "REPORT_ATTESTED_KEY": "tightseal/v1/report-data/attested-key",
        "REPORT_QUOTE_PROOF": "tightseal/v1/report-data/quote-proof",
        "SIGN_CHALLENGE": "tightseal/v1/signature/challenge",
        "SIGN_RESPONSE": "tightseal/v1/signature/response",
        "TRANSCRIPT": "tightseal/v1/hash/transcript",
        "CLAIMS": "tightseal/v1/hash/claims",
        "SETTINGS": "tightseal/v1/hash/settings",
        "KEYRING_SIDECAR": "tightseal/v1/hash/keyring-sidecar",
        "NONCE_MAC": "tightseal/v1/mac/nonce",
        "REDEEMED_NONCE": "tightseal/v1/hash/redeemed-nonce",
        "HPKE_INFO": "tightseal/v1/hpke/info",
    }
    values = {name: label.value for name, label in Label.__members__.items()}
    assert published.items() <= values.items()
