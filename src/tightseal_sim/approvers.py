# SPDX-License-Identifier: Apache-2.0
"""Approvers of a simulated operator: keys in memory, and bundles that they sign."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from securesystemslib.signer import CryptoSigner

from tightseal.model.action import Action, Signature, SignedAction
from tightseal.model.action_file import encode_action
from tightseal.model.canonical import labelled
from tightseal.model.labels import Label
from tightseal.policy.bundle.approvers import first_root
from tightseal.policy.bundle.archive import pack
from tightseal.policy.bundle.author import plan_signing, signed_files
from tightseal.policy.bundle.draft import bundle_files
from tightseal.policy.bundle.keyfile import SigningKey, generate_key
from tightseal.policy.bundle.tree import read_tree
from tightseal.policy.bundle.verify import policy_root_of

__all__ = ["Approvers"]

FIRST_ROOT: Final = "metadata/1.root.json"
ROOT_DAYS: Final = 365


class Approvers:
    """A group whose signatures a provider asks for.

    Args:
        count: how many they are.
        threshold: how many of them must sign.
        now: Unix seconds at which they begin; the clock's by default.
    """

    def __init__(
        self, count: int = 2, *, threshold: int = 2, now: int | None = None
    ) -> None:
        self.keys: tuple[SigningKey, ...] = tuple(generate_key() for _ in range(count))
        self._signers = [CryptoSigner(key.private()) for key in self.keys]
        root = first_root(
            [signer.public_key for signer in self._signers],
            threshold=threshold,
            now=_now(now),
            days=ROOT_DAYS,
        )
        self._files: dict[str, bytes] = {FIRST_ROOT: root}
        self._published: dict[str, bytes] | None = None
        self.policy_root = policy_root_of(root)

    def bundle(
        self,
        documents: Mapping[str, str],
        *,
        release: str | None = None,
        signers: int | None = None,
        days: int = 30,
        now: int | None = None,
    ) -> bytes:
        """Publish documents, in place of all that were published before.

        Args:
            documents: name to TOML.
            release: content of ``release.toml``.
            signers: how many sign; all by default. What fewer signed is forgotten.
            days: that the signatures hold.
            now: Unix seconds at which they sign; the clock's by default.
        """
        metadata = {p: d for p, d in self._files.items() if p.startswith("metadata/")}
        files = metadata | {
            f"targets/policy/{name}.toml": text.encode()
            for name, text in documents.items()
        }
        if release is not None:
            files["targets/release.toml"] = release.encode()
        for signer in self._signers[:signers]:
            plan = plan_signing(
                files,
                signer.public_key,
                published=self._published,
                now=_now(now),
                days=days,
                renew=True,
            )
            files |= signed_files(plan, signer)
        made = bundle_files(read_tree(files), files)
        if signers is None:
            self._files, self._published = files, made
        return pack(made)

    def action(self, action: Action, *, signers: int | None = None) -> bytes:
        """Sign an operator action with the same keys."""
        message = labelled(Label.SIGN_ACTION, action.as_value())
        signatures = tuple(
            Signature(key.public_key, key.sign(message)) for key in self.keys[:signers]
        )
        return encode_action(SignedAction(action, signatures))


def _now(now: int | None) -> int:
    return int(time.time()) if now is None else now
