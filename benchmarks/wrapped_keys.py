# SPDX-License-Identifier: Apache-2.0
"""Two providers over a keyring each: one with few wrapped keys, one with very many.

Both are composed as the product composes them, over PostgreSQL, in this process. The
keys are those of one workload, told apart by label, in the records of the product.
"""

import secrets
import tempfile
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from random import Random

import msgspec
from own_postgres import Server
from rows import note

from tightseal.evidence.cache import ResultCache
from tightseal.evidence.roots import VENDOR_ROOTS, with_simulated
from tightseal.evidence.verify import EvidenceVerifier
from tightseal.guest.challenge import ProviderCollateral
from tightseal.guest.exchange import Exchange, Terms
from tightseal.guest.pins import ProviderPin, RootedIdentity
from tightseal.model.exchange import Kem
from tightseal.model.keypath import IdentityKind, KeyPath, KeyRequest
from tightseal.model.labels import Label
from tightseal.model.secret import Secret
from tightseal.model.settings import ReleaseSettings, RootKind
from tightseal.model.state import MAX_BATCH, Create
from tightseal.model.usage import wrapped_record
from tightseal.model.wire import ChallengeRequest, decode_json, encode_json
from tightseal.platform.door import open_platform
from tightseal.policy.document import KeyRules
from tightseal.policy.read import parse
from tightseal.policy.start import from_claims, render
from tightseal.release.wrapped import kind_of
from tightseal.release.wrapped_record import WrappedRecord, random_key
from tightseal.service.compose import Composed, compose, prepare
from tightseal.service.keyring_settings import KeyringSettings
from tightseal.service.roots import open_roots
from tightseal.service.settings import (
    CollateralSettings,
    HostSettings,
    PlatformKind,
    PlatformSettings,
    Settings,
    StateEngine,
    StateSettings,
)
from tightseal.service.state import open_store, store_sealer
from tightseal.state.store import SealedStore
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Scene
from tightseal_sim.sources import WorldSource

MACHINE = "machine-a"
TENANT, WORKLOAD, PURPOSE = "acme", "database", "volume"
FEW = 64
"""Keys of the provider that counts as empty; as many as are asked for."""

FILL_PROCESSES = 2
CHUNK = 1024
"""Keys that are made at once, in a process of their own."""

PROGRESS_SECONDS = 10


def label_of(number: int) -> str:
    """The label of a key by its number."""
    return f"v-{number}"


def name_of(number: int) -> str:
    """The name of its record."""
    return wrapped_record(
        tenant=TENANT, workload=WORKLOAD, purpose=PURPOSE, label=label_of(number)
    )


@dataclass
class Bench:
    """One provider.

    Attributes:
        settings: what it was composed of.
        composed: the provider.
        store: its state, beside the provider's own connection to it.
        count: its wrapped keys.
    """

    scene: Scene
    td: SimTd
    approvers: Approvers
    settings: Settings
    composed: Composed
    store: SealedStore
    count: int = 0

    def body(self, request: KeyRequest) -> bytes:
        """A whole request for a key: challenged, with evidence; to be sent once."""
        verify = verifier_of(self.scene)
        terms = Terms(
            pin=self._pin(),
            collateral=ProviderCollateral.behind(verify),
            kem=Kem.X25519,
        )
        now = int(time.time())
        exchange = Exchange(terms, (request,))
        asked = decode_json(exchange.challenge_request(), ChallengeRequest)
        answer = self.composed.front.provider.challenge(asked, now=now)
        data = exchange.check_challenge(encode_json(answer), now=now)
        return exchange.keys_request(self.td.evidence(data))

    def release(self, body: bytes) -> float:
        """Seconds that a release took, from the request's bytes to the answer's."""
        now = int(time.time())
        start = time.perf_counter()
        self.composed.front.provider.begin(body, now=now).finish(now)
        return time.perf_counter() - start

    def create(self, count: int) -> None:
        """Create keys as workloads do."""
        for number in range(count):
            self.release(self.body(KeyRequest(PURPOSE, label_of(number), create=True)))
        self.count = count

    def opening(self, number: int) -> bytes:
        """A whole request to open a key."""
        return self.body(KeyRequest(PURPOSE, label_of(number)))

    def _pin(self) -> ProviderPin:
        identity = self.composed.front.provider.info(now=int(time.time())).identity
        found = identity.parsed()
        return ProviderPin(
            identity=RootedIdentity(
                tee=found.tee,
                measurement=found.measurement,
                keyring_id=found.keyring_id,
                policy_root=self.approvers.policy_root,
            ),
            trust_domains=frozenset(
                {str(self.scene.world.intel.trusted_root.trust_domain)}
            ),
            allow_simulated=True,
        )


def verifier_of(scene: Scene) -> EvidenceVerifier:
    """Accepts evidence of the simulated world."""
    return EvidenceVerifier(
        roots=with_simulated(VENDOR_ROOTS, scene.world.intel.root_certificate),
        source=WorldSource(scene.world),
        cache=ResultCache(64),
    )


def document_of(scene: Scene, td: SimTd) -> str:
    """A named workload with a wrapped purpose of any label."""
    text = from_claims(
        verifier_of(scene)(td.evidence(bytes(64)), now=int(time.time())),
        tenant=TENANT,
        name=WORKLOAD,
        identity=IdentityKind.NAMED,
        label="first",
        purpose=PURPOSE,
    )
    rules = parse(text).document.workload[0]
    wrapped = {"purpose": PURPOSE, "source": "wrapped", "labels": ["v-*"]}
    key = msgspec.convert(wrapped, KeyRules)
    return render((msgspec.structs.replace(rules, key=(key,)),))


@contextmanager
def pair(server: Server) -> Iterator[tuple[Bench, Bench]]:
    """Two providers on one simulated machine, alike in all but their state."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scene = stack.enter_context(Scene(folder))
        td = scene.world.intel.platform(MACHINE).launch_td(TdImage())
        approvers = Approvers()
        bundle = approvers.bundle({"workload": document_of(scene, td)})
        file = folder / "policy.tsb"
        file.write_bytes(bundle)

        def one(name: str) -> Bench:
            address = server.new_address(name)
            settings = settings_of(scene, folder / name, address, approvers)
            prepare(settings)
            composed = compose(settings, seed=Secret(secrets.token_bytes(32)))
            stack.callback(composed.close)
            composed.front.provider.publish(bundle, now=int(time.time()))
            store = store_of(settings)
            stack.callback(store.close)
            return Bench(scene, td, approvers, settings, composed, store)

        yield one("empty"), one("filled")


def settings_of(
    scene: Scene, folder: Path, address: str, approvers: Approvers
) -> Settings:
    """A provider over a keyring, under a policy root, over PostgreSQL."""
    return Settings(
        host=HostSettings(
            state_dir=str(folder),
            platform=PlatformSettings(
                kind=PlatformKind.SIM,
                world=str(scene.folder / "world"),
                machine=MACHINE,
            ),
            collateral=CollateralSettings(pccs=(scene.pccs_url,)),
            keyring=KeyringSettings(create=True),
            state=StateSettings(engine=StateEngine.POSTGRES, url=address),
        ),
        release=ReleaseSettings(
            simulated_roots=(b64encode(scene.world.intel.root_certificate).decode(),),
            policy_root=approvers.policy_root.hex(),
            root=RootKind.KEYRING,
        ),
    )


def store_of(settings: Settings) -> SealedStore:
    """The provider's state, opened with the key that its keyring gives."""
    return open_store(settings.host, store_key(settings))


def store_key(settings: Settings) -> Secret:
    """As the provider derives it."""
    return _roots(settings).secret(Label.KDF_STATE_STORE, settings.release.policy_root)


def _roots(settings: Settings):  # noqa: ANN202
    kind = settings.host.platform
    return open_roots(settings, open_platform(kind.kind.value, kind.options()))


# -- filling -----------------------------------------------------------------------


def fill(bench: Bench, count: int) -> float:
    """Write wrapped keys until there are ``count``; seconds that it took.

    The records are those that a workload's ``create`` writes, in batches. They come in
    the order of the store's map, so that each node of it is written about once.
    """
    first = bench.store.open(kind_of(name_of(0)), name_of(0), now=int(time.time()))
    path = WrappedRecord.decode(first.value).path
    root = _roots(bench.settings).key_roots.root(path.generation)
    sealer = store_sealer(bench.settings.host, store_key(bench.settings))
    start = time.perf_counter()
    note(f"{count} wrapped keys: names")
    names = ((name_of(number), number) for number in range(bench.count, count))
    placed = sorted((kind_of(n), sealer.index(kind_of(n), n), k) for n, k in names)
    order = [number for _, _, number in placed]
    chunks = (order[at : at + CHUNK] for at in range(0, len(order), CHUNK))
    told, done = time.perf_counter(), bench.count
    for made in _made(root.reveal(), path, chunks):
        parts = [made[at : at + MAX_BATCH] for at in range(0, len(made), MAX_BATCH)]
        # Batches that wait for one another share a commit.
        with ThreadPoolExecutor(len(parts)) as threads:
            list(threads.map(partial(_write, bench.store), parts))
        done += len(made)
        if time.perf_counter() - told > PROGRESS_SECONDS:
            told = time.perf_counter()
            rate = (done - bench.count) / (told - start)
            note(f"{done} of {count} wrapped keys, {rate:.0f} a second")
    bench.count = count
    return time.perf_counter() - start


def _write(store: SealedStore, records: Sequence[tuple[str, bytes]]) -> None:
    changes = [Create(kind_of(name), name, value) for name, value in records]
    store.batch(changes, now=int(time.time()))


def _made(
    root: bytes, path: KeyPath, chunks: Iterator[list[int]]
) -> Iterator[list[tuple[str, bytes]]]:
    """The values of records, in order, made a little ahead in other processes."""
    with ProcessPoolExecutor(FILL_PROCESSES, get_context("spawn")) as pool:
        ahead = [pool.submit(_wrapped, root, path, c) for c in islice(chunks, 4)]
        while ahead:
            made = ahead.pop(0).result()
            ahead += [pool.submit(_wrapped, root, path, c) for c in islice(chunks, 1)]
            yield made


def _wrapped(
    root: bytes, path: KeyPath, numbers: Sequence[int]
) -> list[tuple[str, bytes]]:
    made = []
    for number in numbers:
        own = replace(path, label=label_of(number))
        name = name_of(number)
        record = WrappedRecord.seal(
            random_key(own, secrets.token_bytes),
            name=name,
            root=Secret(root),
            path=own,
            created_by=secrets.token_bytes(32),
            entropy=secrets.token_bytes,
        )
        made.append((name, record.encode()))
    return made


# -- measuring ---------------------------------------------------------------------


def best_release(
    benches: Sequence[Bench], *, rounds: int, each: int
) -> list[tuple[float, float]]:
    """Seconds of a release of each provider: best mean and best median of the rounds.

    They take turns, release by release, each for a key of its own choice, so that
    whatever slows the machine slows both.
    """
    random = Random(0)  # noqa: S311 (which keys, not what they are)
    best = [(float("inf"), float("inf")) for _ in benches]
    for number in range(rounds):
        note(f"releases, round {number + 1} of {rounds}")
        bodies = [
            [b.opening(random.randrange(b.count)) for _ in range(each)] for b in benches
        ]
        times: list[list[float]] = [[] for _ in benches]
        for turn in range(each):
            for which, bench in enumerate(benches):
                times[which].append(bench.release(bodies[which][turn]))
        for which, seen in enumerate(times):
            mean, median = sum(seen) / each, sorted(seen)[each // 2]
            best[which] = min(best[which][0], mean), min(best[which][1], median)
    return best


def best_open(bench: Bench, *, rounds: int, each: int) -> float:
    """Seconds to read one record of the store, held against its map: the best mean."""
    random = Random(1)  # noqa: S311
    best = float("inf")
    for _ in range(rounds):
        names = [name_of(random.randrange(bench.count)) for _ in range(each)]
        now = int(time.time())
        start = time.perf_counter()
        for name in names:
            bench.store.open(kind_of(name), name, now=now)
        best = min(best, (time.perf_counter() - start) / each)
    return best
