# SPDX-License-Identifier: Apache-2.0
"""What hardware, builds and losses do to keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from tightseal_sim.drill_disk import DrillDisk
from tightseal_sim.drill_outcome import Event, Outcome, restarted
from tightseal_sim.drill_site import (
    GUEST,
    IMAGE,
    MEASURED_PCR,
    Setup,
    Shape,
    Site,
    second_machine,
)
from tightseal_sim.drill_stage import Stage

__all__ = ["HARDWARE_EVENTS"]


def _restart(setup: Setup) -> Outcome:
    stage = Stage(setup)
    # What it had not synced is gone with it.
    stage.disk = next(stage.disk.crashed())
    return restarted(stage)


def _microcode_update(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.cpu.microcode_update()
    return restarted(stage)


def _on_new_microcode(setup: Setup) -> Stage:
    site = Site(setup.tee)
    site.cpu.microcode_update()
    return Stage(setup, site)


def _microcode_back(setup: Setup) -> Outcome:
    stage = _on_new_microcode(setup)
    stage.site.world = stage.site.world.pristine()
    return restarted(stage)


def _microcode_forth(setup: Setup) -> Outcome:
    stage = _on_new_microcode(setup)
    stage.site.world = stage.site.world.pristine()
    stage.site.cpu.microcode_update()
    return restarted(stage)


def _rebuild(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.image = replace(IMAGE, code=b"release 2")
    stage.site.guest = replace(GUEST, kernel=b"tightseal-provider release 2")
    return restarted(stage)


def _rebuild_higher(setup: Setup) -> Outcome:
    stage = Stage(setup)
    higher = IMAGE.isv_svn + 1
    stage.site.image = replace(IMAGE, code=b"release 2", isv_svn=higher)
    return restarted(stage)


def _new_signer(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.image = replace(IMAGE, code=b"release 2", signer="another author")
    return restarted(stage)


def _seal_masks(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.xfrm_mask = 0
    return restarted(stage)


def _snp_update(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.chip.firmware_update()
    return restarted(stage)


def _snp_back(setup: Setup) -> Outcome:
    site = Site(setup.tee)
    old = replace(site.chip.tcb)
    site.chip.firmware_update()
    stage = Stage(setup, site)
    site.chip.tcb = old
    return restarted(stage)


def _tpm_cleared(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.tpm.clear()
    return restarted(stage)


def _other_boot(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site.tpm.extend(MEASURED_PCR, bytes([1]) * 32)
    return restarted(stage)


def _disk_lost(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.disk = DrillDisk()
    return restarted(stage)


def _disk_restored(setup: Setup) -> Outcome:
    stage = Stage(setup)
    copy = stage.disk.read()
    stage.disk = DrillDisk()
    stage.disk.put(copy)
    return restarted(stage)


def _machine_lost(setup: Setup) -> Outcome:
    stage = Stage(setup)
    stage.site = second_machine(setup)
    if setup.shape is Shape.SERVICE:
        copy = stage.disk.read()
        stage.disk = DrillDisk()
        stage.disk.put(copy)
    return restarted(stage)


HARDWARE_EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "provider killed and restarted": _restart,
        "microcode update, CPUSVN up": _microcode_update,
        "microcode rolled back": _microcode_back,
        "microcode rolled back and forward again": _microcode_forth,
        "rebuild, same signer": _rebuild,
        "rebuild, same signer, ISVSVN up": _rebuild_higher,
        "rebuild, new signer": _new_signer,
        "seal masks changed": _seal_masks,
        "SNP TCB update": _snp_update,
        "SNP TCB rolled back": _snp_back,
        "TPM cleared": _tpm_cleared,
        "boot measured otherwise": _other_boot,
        "state disk lost": _disk_lost,
        "state disk lost, keyring copied before": _disk_restored,
        "machine lost, keyring copied before": _machine_lost,
    }
)
"""Events by name."""
