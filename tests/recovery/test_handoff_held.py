# SPDX-License-Identifier: Apache-2.0
"""A keyring that is handed over waits for witnesses, where every release does."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
from desk_rig import Asking, Direct, Giving, asking, giving, invitation, joined, refusal

from handoff_scene import Site
from tightseal.audit.note import NoteSigner, SignatureType
from tightseal.errors import Code
from tightseal.model.logclass import LogClass, LogCover
from tightseal_sim.scene import Scene

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

WITNESS = NoteSigner("witness.example/1", SignatureType.COSIGNATURE, b"\7" * 32)
RELEASE = f"""
[audit_log]
least = "cosigned"
witnesses = ["{WITNESS.key}"]
threshold = 1
"""


def clock() -> int:
    return int(time.time())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as scene:
        yield scene


@pytest.fixture(scope="module")
def site(scene: Scene) -> Site:
    return Site(scene)


@contextmanager
def both(site: Site) -> Iterator[tuple[Giving, Asking]]:
    fleet = {"fleet": site.document()}
    bundle = site.approvers.bundle(fleet, release=RELEASE)
    with giving(site, bundle, "giver", clock=clock) as giver:
        yield giver, asking(site, bundle, "joiner", clock=clock)


@dataclass
class Covered(Direct):
    """The giver once witnesses have seen its entry; what waited before is counted."""

    waited: int = 0

    def hand_over(self, body: bytes) -> bytes:
        done = self.provider.hand_over(body, now=self.now())
        if done.held is None:
            return done.ready()
        self.waited += 1
        assert done.held.need.witnesses == (str(WITNESS.key),)
        cover = LogCover(LogClass.COSIGNED, done.held.index + 1, bytes(32))
        return done.held.complete(cover, b"")


def test_nothing_is_handed_over_before_it_is_witnessed(site: Site) -> None:
    with both(site) as (giver, joiner):
        invited = invitation(site, giver, joiner.candidate.parts)
        error = refusal(lambda: joined(joiner, giver.direct(), invited))
        assert error.code is Code.LOG_NOT_WITNESSED
        assert not joiner.file.exists()
        # The machine that began may try again, and gets it once it is covered.
        direct = Covered(giver.provider, clock)
        assert not joined(joiner, direct, invited).confirmed
        assert direct.waited == 1
        assert joiner.file.exists()
