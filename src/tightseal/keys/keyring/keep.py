# SPDX-License-Identifier: Apache-2.0
"""Keeping: an open keyring is sealed, saved, opened again, and told to the anchor.

In this order, so that a crash never leaves the anchor ahead of the file: then the
keyring would be refused for ever. A crash before the anchor was told leaves it behind
by one, and the next opening makes up for it.
"""

from __future__ import annotations

from tightseal.keys.keyring.faults import tampered
from tightseal.keys.keyring.file import Basis, KeyringFile, Saved
from tightseal.keys.keyring.open import OpenedKeyring, open_with_key
from tightseal.keys.keyring.opened import Keyring
from tightseal.keys.keyring.terms import Terms
from tightseal.model.keyring import KeyringAnchor

__all__ = ["check_saved", "keep", "keep_new", "keep_opened"]


def keep_new(
    file: KeyringFile, keyring: Keyring, *, anchor: KeyringAnchor | None
) -> Saved:
    """Write a keyring that has no file yet.

    Raises:
        KeyReleaseError: ``keyring_exists``.
        ServiceError: ``state_unavailable``, ``state_conflict``.
    """
    saved = file.create(keyring.seal(), lambda data: check_saved(data, keyring))
    _tell(anchor, keyring)
    return saved


def keep(
    file: KeyringFile,
    keyring: Keyring,
    *,
    replaces: Basis,
    anchor: KeyringAnchor | None,
) -> Saved:
    """Write a changed keyring in place of the one that it was made from.

    Args:
        file: its file.
        keyring: after the change.
        replaces: what the change was made from, as it was loaded or saved.
        anchor: what remembers the counter; ``None`` where nothing does.

    Raises:
        KeyReleaseError: ``keyring_missing``; ``keyring_tampered``, where what was read
            back is another keyring.
        ServiceError: ``state_unavailable``, ``state_conflict``.
    """
    saved = file.save(
        keyring.seal(), lambda data: check_saved(data, keyring), replaces=replaces
    )
    _tell(anchor, keyring)
    return saved


def keep_opened(opened: OpenedKeyring, *, anchor: KeyringAnchor | None) -> None:
    """Tell the anchor of a keyring that was opened: it may be behind by a crash.

    Raises:
        ServiceError: ``state_unavailable``.
    """
    _tell(anchor, opened.keyring)


def check_saved(data: bytes, keyring: Keyring) -> None:
    """Open what was written with the key at hand, and compare.

    That each slot opens too is for ``probe_slots`` to try.

    Raises:
        KeyReleaseError: ``keyring_tampered``, or what opening raises.
    """
    header = keyring.header
    terms = Terms(
        trust_domain=header.trust_domain,
        policy_root=header.policy_root,
        policy_version=header.minimum_policy_version,
        keyring_id=header.keyring_id,
    )
    again = open_with_key(data, key=keyring.key, terms=terms, anchor=None)
    if again.keyring != keyring:
        raise tampered("what was written is another keyring than what was meant")


def _tell(anchor: KeyringAnchor | None, keyring: Keyring) -> None:
    if anchor is not None:
        anchor.remember(keyring.header.keyring_id, keyring.header.counter)
