# SPDX-License-Identifier: Apache-2.0
"""``public-key`` and ``collateral fetch --root-ca`` against a simulated world."""

import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import structlog

from cli_support import Said, run
from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.pins import pin_to_toml
from tightseal.keys.pairs import check_public_half, public_half
from tightseal.model.keypath import IdentityKind, KeyRequest, KeyType
from tightseal.policy.document import KeyRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene
from tightseal_sim.sources import WorldSource

KEYS = (
    {"purpose": "sign", "type": "ed25519", "published": True, "labels": ["", "a"]},
    {"purpose": "mail", "type": "x25519"},
    {"purpose": "disk"},
)

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def document(scene: Scene, td: SimTd) -> str:
    verify = EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate),
        source=WorldSource(scene.world),
        cache=ResultCache(64),
    )
    text = from_claims(
        verify(td.evidence(bytes(64)), now=int(time.time())),
        tenant="acme",
        name="database",
        identity=IdentityKind.NAMED,
        label="first",
        purpose="sign",
    )
    rules = parse(text).document.workload[0]
    keys = tuple(msgspec.convert(key, KeyRules) for key in KEYS)
    return render((msgspec.structs.replace(rules, key=keys),))


@dataclass
class Place:
    """A provider that publishes one purpose, and what a client of it has."""

    scene: Scene
    td: SimTd
    provider: Provider
    folder: Path

    @property
    def root_ca(self) -> tuple[object, ...]:
        return ("--root-ca", self.folder / "root.pem")

    def ask(self, *names: object, pin: str = "pin.toml") -> Said:
        return run(
            *("public-key", *names, "--provider", self.provider.url),
            *("--pin", self.folder / pin, *self.root_ca),
            *("--pccs", self.scene.pccs_url),
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("published")
    with Scene(folder / "scene") as scene:
        td = scene.world.intel.platform("machine-a").launch_td(TdImage())
        approvers = Approvers()
        provider = scene.provider(
            policy_root=approvers.policy_root,
            bundle=approvers.bundle({"d": document(scene, td)}),
        )
        (folder / "pin.toml").write_text(pin_to_toml(provider.pin))
        (folder / "root.pem").write_text(scene.root_pem())
        yield Place(scene, td, provider, folder)
    # Here its complaints are expected; see above.
    gc.collect()


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("label", ["", "a"])
def test_the_half_is_that_of_the_key_that_the_workload_gets(
    place: Place, label: str
) -> None:
    with place.scene.client(place.provider, place.td) as client:
        key = client.keys(KeyRequest("sign", label)).get("sign", label)
    options = ("--label", label) if label else ()
    shown = place.ask("acme", "database", "sign", *options, "--json").document
    assert shown["public_key"] == public_half(key, KeyType.ED25519).hex()
    assert (shown["type"], shown["label"]) == ("ed25519", label)
    assert (shown["tenant"], shown["workload"]) == ("acme", "database")
    assert shown["simulated"] is True
    assert shown["policy"]["version"] == 1
    assert shown["provider"]["policy_root"] == (
        place.provider.settings.release.policy_root
    )


def test_the_first_line_is_the_half_itself(place: Place) -> None:
    said = place.ask("acme", "database", "sign")
    assert said.status == 0
    word, half = said.stdout.splitlines()[0].split()
    assert word == "published"
    check_public_half(bytes.fromhex(half), KeyType.ED25519)
    assert "simulated" in said.stderr


@pytest.mark.parametrize(
    "names",
    [
        ("acme", "database", "mail"),
        ("acme", "database", "disk"),
        ("acme", "nobody", "sign"),
        ("other", "database", "sign"),
    ],
)
def test_what_is_not_published_is_1_and_says_no_more(
    place: Place, names: tuple[str, ...]
) -> None:
    said = place.ask(*names, "--json")
    assert (said.status, said.stdout) == (1, "")
    assert "purpose_not_allowed" in said.stderr


def test_a_provider_that_the_pin_does_not_mean_is_not_believed(place: Place) -> None:
    text = pin_to_toml(place.provider.pin)
    policy_root = place.provider.settings.release.policy_root
    assert policy_root in text
    (place.folder / "other.toml").write_text(text.replace(policy_root, "ab" * 32))
    said = place.ask("acme", "database", "sign", pin="other.toml")
    assert (said.status, said.stdout) == (1, "")
    assert "provider_identity_mismatch" in said.stderr


def test_a_name_that_is_none_is_refused_before_anybody_is_asked(place: Place) -> None:
    said = place.ask("acme", "", "sign")
    assert (said.status, said.stdout) == (1, "")
    assert "request_malformed" in said.stderr


def test_collateral_of_a_simulated_world_is_fetched_where_its_root_is_named(
    place: Place, tmp_path: Path
) -> None:
    quote = tmp_path / "quote"
    quote.write_bytes(place.td.evidence(bytes(64)))
    cache = ("--cache", tmp_path / "cache")
    words = ("collateral", "fetch", quote, "--pccs", place.scene.pccs_url, *cache)
    refused = run(*words, "--json")
    assert (refused.status, refused.stdout) == (2, "")
    assert "root_not_trusted" in refused.stderr
    fetched = run(*words, *place.root_ca, "--json").document["fetched"]
    assert {row["state"] for row in fetched} == {"valid"}
    assert len(fetched) == 4
