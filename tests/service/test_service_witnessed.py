# SPDX-License-Identifier: Apache-2.0
"""A provider and a witness in processes of their own: no cosignature, no key."""

import json
import re
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from service_harness import ask_framed, until

from tightseal.audit.logfile import check_journal
from tightseal.audit.note import NoteKey
from tightseal.cli.audit_witness import KEY_NAME
from tightseal.errors import Code, ProviderError
from tightseal.guest.client import Client
from tightseal.guest.http import Bounds, RefusedError
from tightseal.guest.logterms import LogTerms
from tightseal.guest.released import Receipt
from tightseal.model.exchange import Kem
from tightseal.model.keypath import KeyRequest
from tightseal.model.logclass import LogClass
from tightseal.service.witness import new_witness_key
from tightseal_sim.intel.td import SimTd, TdImage
from tightseal_sim.scene import Provider, Scene, free_port

# The collateral client of a guest lives as long as its process.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)

SECONDS = 60.0


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


def made_witness(folder: Path) -> str:
    folder.mkdir()
    path = folder / KEY_NAME
    name = "witness.example/1"
    return str(new_witness_key(path, name, entropy=secrets.token_bytes).key)


@contextmanager
def serving(folder: Path, port: int, log_key: str) -> Iterator[None]:
    """``tightseal audit witness serve``, until the end of the block."""
    command = [sys.executable, "-m", "tightseal", "audit", "witness", "serve"]
    process = subprocess.Popen(
        [*command, str(folder), "--log", log_key, "--port", str(port)],
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/x/checkpoint"), SECONDS)
        yield
    finally:
        process.terminate()
        process.wait(20)


def answers(url: str) -> bool:
    try:
        httpx.get(url, trust_env=False, timeout=2)
    except httpx.HTTPError:
        return False
    return True


def log_key_of(provider: Provider) -> str:
    found = re.search(r'"log_verifier": ?"([^"]+)"', provider.log.read_text())
    assert found is not None
    return found[1]


def unready(provider: Provider) -> dict[str, str]:
    answer = httpx.get(f"{provider.url}/readyz", trust_env=False, timeout=10).json()
    return {part["name"]: part["code"] for part in answer["parts"] if not part["ok"]}


def metric(provider: Provider, name: str) -> float:
    text = httpx.get(f"{provider.url}/metrics", trust_env=False, timeout=10).text
    (line,) = [line for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[1])


def entries(provider: Provider) -> int:
    host = sqlite3.connect(provider.settings.host.journal_path)
    try:
        return int(host.execute("SELECT count(*) FROM journal").fetchone()[0])
    finally:
        host.close()


def client(scene: Scene, provider: Provider, td: SimTd, log: LogTerms) -> Client:
    made = scene.client(provider, td, kem=Kem.X25519)
    terms = replace(made._terms, log=log)
    made.close()
    bounds = Bounds(attempts=12, first_delay=0.02, max_wait=2.0)
    return Client(provider.url, source=td, terms=terms, bounds=bounds)


def receipt(scene: Scene, provider: Provider, td: SimTd, log: LogTerms) -> Receipt:
    with client(scene, provider, td, log) as made:
        return made.keys(KeyRequest("disk")).receipt


def test_no_key_leaves_before_the_witness_has_its_entry(
    scene: Scene, tmp_path: Path
) -> None:
    folder, port = tmp_path / "witness", free_port()
    witness = made_witness(folder)
    rules = {"least": "cosigned", "witnesses": [witness], "threshold": 1}
    urls = [f"http://127.0.0.1:{port}"]
    config = scene.configure(
        "witnessed",
        host={"workers": 2, "witnesses": {"urls": urls, "wait_seconds": 1.0}},
        release={"audit_log": rules, "legacy": {"enabled": True}},
    )
    provider = scene.start(config, wait_for="/healthz")
    td = scene.world.intel.platform("machine-a").launch_td(TdImage())
    mine = LogTerms.parse(LogClass.COSIGNED, witnesses=(witness,), threshold=1)
    info = httpx.get(f"{provider.url}/v1/info", trust_env=False, timeout=10).json()
    assert info["log"] == rules

    # Nobody answers: the entry is made, and neither way in gives a key out.
    with scene.client(provider, td, kem=Kem.X25519) as hasty:
        hasty._bounds = Bounds(attempts=1)
        with pytest.raises(RefusedError) as refused:
            hasty.keys(KeyRequest("disk"))
    assert refused.value.refusal is Code.LOG_NOT_WITNESSED
    assert refused.value.retry_after
    quote = td.evidence(b"\x09" * 32 + bytes(32))
    asked = json.dumps({"quote": list(quote)}).encode()
    assert ask_framed(provider.framed[1], asked, timeout=30) == b""
    until(
        lambda: unready(provider).get("witnesses") == Code.LOG_NOT_WITNESSED.value,
        SECONDS,
    )

    # Guests wait, sending the very same bytes again; then somebody answers.
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(receipt, scene, provider, td, mine) for _ in range(4)]
        until(lambda: entries(provider) == 1 + 1 + 4, SECONDS)
        assert not any(one.done() for one in waiting)
        with serving(folder, port, log_key_of(provider)):
            found = [one.result(SECONDS) for one in waiting]
            for one in found:
                assert one.log_class is LogClass.COSIGNED
                assert one.log_cover is not None
                assert one.log_cover.cover.witnesses == (witness,)
            assert len({one.entry_id for one in found}) == 4
            provider.wait_ready()
            assert metric(provider, "tightseal_witnesses_needed") == 1
            # Over the old protocol the answer waits as well, and has no receipt.
            answer = ask_framed(provider.framed[1], asked, timeout=30)
            assert b"encrypted_key" in answer
            # Another witness than the policy's is not met, whatever the provider says.
            strange = made_witness(tmp_path / "stranger")
            theirs = LogTerms.parse(
                LogClass.COSIGNED, witnesses=(strange,), threshold=1
            )
            with pytest.raises(ProviderError) as low:
                receipt(scene, provider, td, theirs)
            assert low.value.code is Code.LOG_CLASS_TOO_LOW
    key = NoteKey.parse(log_key_of(provider))
    provider.stop()
    # However often the same bytes came, they are one entry; the old way has no retry.
    head = check_journal(provider.settings.host.journal_path, key, whole=True)
    assert head.frontier.size == 1 + 4 + 1 + 2
