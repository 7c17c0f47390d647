# SPDX-License-Identifier: Apache-2.0
"""What happens when a keyring goes to another provider, and to providers that share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final

from tightseal.errors import Code, ProviderError, TightsealError
from tightseal.keys.chain import derive
from tightseal.keys.keyring import rotate
from tightseal.model.action import RevokeParameters
from tightseal.model.labels import Label
from tightseal.model.state import StateStore
from tightseal.release.keyring import KeyringKeeper, StoreAnchor
from tightseal.release.revoke import revoke
from tightseal.release.sharing import StoreShare
from tightseal.state.memory import MemoryEngine
from tightseal.state.seal import Sealer
from tightseal.state.store import SealedStore
from tightseal_sim.approvers import Approvers
from tightseal_sim.drill_disk import CrashError, DrillDisk, DrillSystem
from tightseal_sim.drill_fleet import Fleet, Giving, next_site
from tightseal_sim.drill_outcome import (
    Event,
    Outcome,
    Verdict,
    all_alike,
    found,
    refused,
)
from tightseal_sim.drill_site import IMAGE, NOW, Setup, Site
from tightseal_sim.drill_stage import Stage, keys_of, workload_path
from tightseal_sim.drill_strangers import TWIN_ROOT

__all__ = ["HANDOFF_EVENTS"]

TENANT: Final = "default"
OTHER_TENANT: Final = "other"


class _Drill:
    """A first provider that gives, and another machine that wants."""

    def __init__(self, setup: Setup) -> None:
        self.stage = Stage(setup)
        self.keeper = self.stage.keeper()
        self.engine = MemoryEngine()
        SealedStore.new(self.engine, self._sealer())
        self.store = self._store()
        self.fleet = Fleet(self.stage, self.store)
        self.site = next_site(self.stage.site)
        self.other = Stage(setup, self.site, empty=True)

    def _sealer(self) -> Sealer:
        name = self.stage.site.policy_root.hex()
        key = self.keeper.keyring.derive(Label.KDF_STATE_STORE, name)
        return Sealer(key, trust_domain=self.stage.site.trust_domain)

    def _store(self) -> StateStore:
        return SealedStore.attach(self.engine, self._sealer())

    def giving(self) -> Giving:
        """The first provider, started anew."""
        return self.fleet.giving(self.stage.keeper())

    def joined(self, giver: Giving | None = None, *, tenant: str | None = None) -> None:
        """The other machine joins."""
        gives = giver or self.giving()
        joiner = self.fleet.joiner(self.site, self.other)
        invitation = self.fleet.invitation(gives, joiner, tenant=tenant)
        self.fleet.join(gives, joiner, invitation)

    def there(self) -> KeyringKeeper:
        """The keyring as the other machine opens it, from its own disk."""
        return self.other.keeper(site=self.site)

    def compared(self) -> Outcome:
        """The other machine's keys against those of before."""
        try:
            keeper = self.there()
        except TightsealError as e:
            return Outcome(Verdict.LOST, e.code.value)
        return found(keys_of(keeper, self.site), self.stage.before)

    def shared(self, keeper: KeyringKeeper) -> KeyringKeeper:
        """The same, over the store that both providers share."""
        store = self._store()
        keeper.anchor_with(
            StoreAnchor(store, lambda: NOW), StoreShare(store, lambda: NOW)
        )
        return keeper

    def still(self, keeper: KeyringKeeper) -> Outcome | None:
        """What is wrong with the keys of before, where newer ones came; or ``None``."""
        keys, before = keys_of(keeper, self.site), self.stage.before
        outcome = found({n: k for n, k in keys.items() if n in before}, before)
        return None if outcome.verdict is Verdict.KEPT else outcome

    def no(self, giver: Giving, site: Site, fleet: Fleet | None = None) -> Outcome:
        """A provider asks to join, and must not."""
        asks = fleet or self.fleet
        joiner = asks.joiner(site, self.other)
        try:
            asks.join(giver, joiner, asks.invitation(giver, joiner))
        except TightsealError as e:
            return refused(self.stage, e.code.value)
        return Outcome(Verdict.LEAKED)


def _machine_lost(setup: Setup) -> Outcome:
    """The next version joins elsewhere; then the first machine is gone, with disk."""
    drill = _Drill(setup)
    drill.joined()
    drill.stage.disk = DrillDisk()
    return drill.compared()


def _rehearsal_alone(setup: Setup) -> Outcome:
    """Nobody had joined when the machine was lost."""
    drill = _Drill(setup)
    drill.stage.disk = DrillDisk()
    return drill.compared()


def _joiner_dies(setup: Setup) -> Outcome:
    """At every call of its operating system; each time it joins after all."""
    quiet = DrillSystem(DrillDisk())
    _join_on(_Drill(setup), quiet)
    return all_alike(_dies_at(setup, at) for at in range(quiet.calls))


def _join_on(drill: _Drill, system: DrillSystem) -> None:
    giver = drill.giving()
    joiner = drill.fleet.joiner(drill.site, drill.other, system=system)
    drill.fleet.join(giver, joiner, drill.fleet.invitation(giver, joiner))


def _dies_at(setup: Setup, at: int) -> Outcome:
    drill = _Drill(setup)
    giver = drill.giving()
    joiner = drill.fleet.joiner(drill.site, drill.other)
    invitation = drill.fleet.invitation(giver, joiner)
    system = DrillSystem(drill.other.disk, crash_at=at, late=True)
    try:
        dying = drill.fleet.joiner(drill.site, drill.other, system=system)
        drill.fleet.join(giver, dying, invitation)
    except CrashError:
        drill.other.disk = next(iter(drill.other.disk.crashed()))
    again = drill.fleet.joiner(drill.site, drill.other)
    try:
        drill.fleet.join(giver, again, invitation)
    except TightsealError as e:
        # It had confirmed before it died: what it wrote is there.
        if e.code is not Code.INVITATION_USED:
            return Outcome(Verdict.LOST, e.code.value)
    return drill.compared()


def _giver_dies(setup: Setup) -> Outcome:
    """After it bound the invitation and before its answer arrived."""
    drill = _Drill(setup)
    giver = drill.giving()
    joiner = drill.fleet.joiner(drill.site, drill.other)
    invitation = drill.fleet.invitation(giver, joiner)

    def dies(_body: bytes) -> bytes:
        raise ProviderError(Code.PROVIDER_UNREACHABLE, "the provider died")

    giver.on_response = dies
    try:
        drill.fleet.join(giver, joiner, invitation)
    except ProviderError:
        pass
    else:
        return Outcome(Verdict.LEAKED, "an answer from the dead")
    drill.fleet.join(drill.giving(), joiner, invitation)
    return drill.compared()


def _twin(setup: Setup) -> Outcome:
    """The genuine image under a root of its host, invited by operators of its own."""
    drill = _Drill(setup)
    site = replace(drill.site, policy_root=TWIN_ROOT)
    twins = Fleet(drill.stage, drill.store, approvers=Approvers(2, now=NOW))
    joiner = twins.joiner(site, drill.other)
    giver = drill.giving()
    try:
        twins.join(giver, joiner, twins.invitation(giver, joiner))
    except TightsealError as e:
        return refused(drill.stage, e.code.value)
    return Outcome(Verdict.LEAKED)


def _unnamed(setup: Setup) -> Outcome:
    """Invited by enough operators, and not named by the policy."""
    drill = _Drill(setup)
    drill.fleet.named = (IMAGE,)
    return drill.no(drill.giving(), drill.site)


def _used(setup: Setup) -> Outcome:
    """A second machine shows an invitation that the first one used."""
    drill = _Drill(setup)
    giver = drill.giving()
    joiner = drill.fleet.joiner(drill.site, drill.other)
    invitation = drill.fleet.invitation(giver, joiner)
    drill.fleet.join(giver, joiner, invitation)
    drill.other.disk = DrillDisk()
    elsewhere = replace(drill.site, machine="machine C")
    second = drill.fleet.joiner(elsewhere, drill.other)
    try:
        drill.fleet.join(giver, second, invitation)
    except TightsealError as e:
        return refused(drill.stage, e.code.value)
    return Outcome(Verdict.LEAKED)


def _branch(setup: Setup) -> Outcome:
    """A provider of one tenant: that tenant's keys are the same, another's are none."""
    drill = _Drill(setup)
    drill.joined(tenant=TENANT)
    keeper = drill.there()
    same = found(keys_of(keeper, drill.site), drill.stage.before)
    if same.verdict is not Verdict.KEPT:
        return same
    path = replace(workload_path(drill.site, 1), tenant=OTHER_TENANT)
    try:
        derive(keeper.root(1), path)
    except TightsealError as e:
        return refused(drill.stage, e.code.value)
    return Outcome(Verdict.LEAKED)


def _revoked(setup: Setup) -> Outcome:
    """Its host puts the newest file before it."""
    drill = _Drill(setup)
    giver = drill.giving()
    drill.joined(giver)
    keeper = giver.desk.keeper
    slots = tuple(
        slot.slot_id for slot in keeper.keyring.slots if slot.label == "joined"
    )
    counter = keeper.keyring.header.counter
    revoke(keeper, drill.store, RevokeParameters(counter, slots), now=NOW)
    drill.other.disk.put(drill.stage.disk.read())
    try:
        drill.there()
    except TightsealError as e:
        kept = drill.still(drill.stage.keeper())
        return kept or Outcome(Verdict.REFUSED, e.code.value)
    return Outcome(Verdict.LEAKED)


def _at_once(setup: Setup) -> Outcome:
    """Each rotates without having heard of the other."""
    drill = _Drill(setup)
    drill.joined()
    one, two = drill.shared(drill.stage.keeper()), drill.shared(drill.there())
    change = partial(rotate, now=NOW)
    one.change(change)
    two.change(change)
    one.look()
    same = keys_of(one, drill.site) == keys_of(two, drill.site)
    if not same or one.generations().current != two.generations().current:
        return Outcome(Verdict.LOST, "two histories")
    again = drill.shared(drill.stage.keeper())
    return drill.still(again) or Outcome(Verdict.KEPT)


def _behind(setup: Setup) -> Outcome:
    """One was down while the other rotated."""
    drill = _Drill(setup)
    drill.joined()
    two = drill.shared(drill.there())
    two.change(partial(rotate, now=NOW))
    one = drill.shared(drill.stage.keeper())
    if keys_of(one, drill.site) != keys_of(two, drill.site):
        return Outcome(Verdict.OLDER, "it did not catch up")
    return drill.still(one) or Outcome(Verdict.KEPT)


HANDOFF_EVENTS: Final[Mapping[str, Event]] = MappingProxyType(
    {
        "machine lost, another provider had joined": _machine_lost,
        "machine lost, nobody had joined": _rehearsal_alone,
        "joiner dies at each step of a handoff": _joiner_dies,
        "giver dies before its answer arrives": _giver_dies,
        "genuine twin under its own policy root asks to join": _twin,
        "image that the policy does not name asks to join": _unnamed,
        "second machine joins by a used invitation": _used,
        "provider of one tenant asks for another's key": _branch,
        "revoked provider is given the newest file": _revoked,
        "two providers over one store rotate at once": _at_once,
        "provider down while another rotates": _behind,
    }
)
"""Events by name."""
