# SPDX-License-Identifier: Apache-2.0
"""What a host does where a TPM's counter remembers the keyring."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tightseal.errors import Code, TightsealError
from tightseal.keys.keyring import AnchorFile, Keyring, rotate
from tightseal.release.tpmanchor import AnchorTpm, TpmAnchor
from tightseal_sim.drill_disk import KEYRING, DrillSystem
from tightseal_sim.drill_outcome import Event, Outcome, Verdict, refused, restarted
from tightseal_sim.drill_site import Setup
from tightseal_sim.drill_stage import NOW, Stage
from tightseal_sim.tpm import SimTpm

__all__ = ["ANCHOR_EVENTS"]


class _Anchored:
    """A provider whose keyring a TPM remembers."""

    def __init__(self, setup: Setup) -> None:
        self.stage = Stage(setup)
        self.tpm = SimTpm(b"the anchor's".ljust(32, b"\0"))
        self.begin()
        self.stage.keyed = self.anchor

    def anchor(self, keyring: Keyring) -> TpmAnchor:
        file = AnchorFile(Path(KEYRING), system=DrillSystem(self.stage.disk))
        return TpmAnchor(keyring, file=file, tpm=AnchorTpm(self.tpm.open))

    def begin(self) -> None:
        """As ``tightseal keyring anchor init --adopt`` does."""
        self.stage.keyed = None
        self.anchor(self.stage.keeper().keyring).begin(adopt=True)
        self.stage.keyed = self.anchor

    def rotate(self) -> None:
        self.stage.keeper().change(lambda keyring: rotate(keyring, now=NOW))
        self.stage.before = self.stage.open().keys

    def started(self) -> str:
        try:
            self.stage.keeper()
        except TightsealError as e:
            return e.code.value
        return "nothing was noticed"


def _put_back(setup: Setup) -> Outcome:
    held = _Anchored(setup)
    older = held.stage.disk.copy()
    held.rotate()
    newest = held.stage.disk
    held.stage.disk = older
    said = held.started()
    held.stage.disk = newest
    return refused(held.stage, said)


def _told_late(setup: Setup) -> Outcome:
    """The process ends between the file and the TPM; then an older file comes."""
    held = _Anchored(setup)
    older = held.stage.disk.copy()
    held.stage.keyed = None
    held.rotate()
    held.stage.keyed = held.anchor
    outcome = restarted(held.stage)
    newest, held.stage.disk = held.stage.disk, older
    noticed = held.started() == Code.KEYRING_ROLLED_BACK.value
    held.stage.disk = newest
    return outcome if noticed else Outcome(Verdict.OLDER, "nothing was noticed")


def _cleared(setup: Setup) -> Outcome:
    held = _Anchored(setup)
    held.tpm.clear()
    return restarted(held.stage)


def _cleared_adopted(setup: Setup) -> Outcome:
    held = _Anchored(setup)
    held.tpm.clear()
    held.begin()
    return restarted(held.stage)


def _replaced(setup: Setup) -> Outcome:
    held = _Anchored(setup)
    held.tpm = SimTpm(b"another".ljust(32, b"\0"))
    return restarted(held.stage)


ANCHOR_EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "older file put back, a TPM as anchor": _put_back,
        "provider crash between file and TPM": _told_late,
        "TPM of the anchor cleared": _cleared,
        "TPM of the anchor cleared, adopted by an operator": _cleared_adopted,
        "TPM of the anchor replaced": _replaced,
    }
)
"""Events by name."""
