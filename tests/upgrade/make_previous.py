# SPDX-License-Identifier: Apache-2.0
"""Make the folder of state that ``test_upgrade.py`` starts from.

It is made by the code of the version that is to be upgraded *from*, once, and kept. To
make the one of the next release, take a checkout of the release before it::

    PYTHONPATH=<that checkout>/src python tests/upgrade/make_previous.py FOLDER

and keep ``FOLDER`` beside ``tests/upgrade/previous``, which stays as long as upgrades
from before the signed log are supported. The program says which code ran. All secrets
in the folder grow from simulated hardware, and guard nothing.

What it makes: a simulated world, a provider in the sidecar shape, and one with a
keyring under a signed policy and state in SQLite. Both have granted and refused. With
``--postgres ADDRESS`` after the folder, the second alone, with its state in that
database, whose tables it leaves in ``service/state.sql`` (by ``pg_dump``).
"""

import base64
import json
import re
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from upgrade_world import (
    EXPECTED,
    KERNEL,
    MACHINE,
    OTHER_KERNEL,
    SERVICE,
    SIDECAR,
    STATE_SQL,
    TEMPLATE,
    Place,
    Running,
)

import tightseal
from tightseal.errors import TightsealError
from tightseal.model.action import Action, ActionKind, KeyringParameters
from tightseal.model.keypath import KeyRequest
from tightseal_sim.approvers import Approvers
from tightseal_sim.intel.td import TdImage
from tightseal_sim.world import World

MEASURED = ("mrtd", "rtmr0", "rtmr1", "rtmr2")
DAYS = 300
"""For which the bundles are signed; the test hands in a clock of before."""

ACTION_SECONDS = 3600
FIRST_COUNTER = 2
"""Of a keyring that a provider made: it has two slots, added one by one."""

COUNT, TOTAL = 3, 5
"""Releases of the counted purpose, and how many the policy allows; the next one allows
one more."""

DISK = KeyRequest("disk")
COUNTED = KeyRequest("counted")
KEPT = KeyRequest("kept")
MAKE_KEPT = KeyRequest("kept", create=True)


def document(world: World, approvers: Approvers, total: int) -> str:
    """A policy document: a derived key, a counted one, a wrapped one, and a role."""
    measured = world.intel.platform(MACHINE).launch_td(TdImage(kernel=KERNEL))
    domain = world.intel.trusted_root.trust_domain
    keys = ", ".join(f'"{key.public_key.hex()}"' for key in approvers.keys)
    lines = [
        "version = 1",
        '[[workload]]\ntenant = "acme"\nname = "database"',
        'identity = "named"\ntee = "tdx"\nplatform = "any"',
        f'trust_domain = "{domain}"',
        '[[workload.image]]\nlabel = "one"\n[workload.image.measurements]',
        *(f'{name} = "{measured.measurements[name].hex()}"' for name in MEASURED),
        '[[workload.key]]\npurpose = "disk"\n',
        '[[workload.key]]\npurpose = "kept"\nsource = "wrapped"\n',
        '[[workload.key]]\npurpose = "counted"\n[workload.key.usage]',
        f'total = {total}\nwithout_anchor = "accept"\n',
        f'[[role]]\nname = "operators"\nthreshold = 2\nkeys = [{keys}]',
        'actions = ["rotate-keyring"]',
    ]
    return "\n".join(lines) + "\n"


def settings(
    world: World, name: str, policy_root: bytes | None, *, database: bool = False
) -> str:
    """A provider's settings file, with marks in place of folder, PCCS and state."""
    root = base64.b64encode(world.intel.root_certificate).decode()
    lines = [
        f'[host]\nstate_dir = "@FOLDER@/{name}/state"',
        f'platform.kind = "sim"\nplatform.machine = "{MACHINE}"',
        'platform.world = "@FOLDER@/world"',
        'collateral = { pccs = ["@PCCS@"] }',
    ]
    if database:
        lines.append('state = { engine = "postgres", url = "@STATE@" }')
    release = [f'[release]\nsimulated_roots = ["{root}"]']
    if policy_root is not None:
        lines.append("keyring = { create = true }")
        release.append(f'root = "keyring"\npolicy_root = "{policy_root.hex()}"')
    return "\n".join([*lines, *release]) + "\n"


def refused(run: Running, *requests: KeyRequest, kernel: bytes = KERNEL) -> str:
    """Ask for what is refused; the code."""
    try:
        run.keys(*requests, kernel=kernel)
    except TightsealError as e:
        return e.code.value
    raise SystemExit(f"{requests} were granted")


def make_sidecar(place: Place, now: int) -> dict[str, object]:
    """A provider whose root is the platform's own sealing key."""
    (place.folder / SIDECAR).mkdir()
    template = place.folder / SIDECAR / TEMPLATE
    template.write_text(settings(place.world, SIDECAR, None))
    with place.running(SIDECAR, now=now) as run:
        keys = run.keys(DISK, KeyRequest("disk", "second"))
        other = run.keys(DISK, kernel=OTHER_KERNEL)
        code = refused(run, KeyRequest("disk", generation=7))
    return {"disk": keys[0], "second": keys[1], "other": other[0], "refused": code}


def make_service(place: Place, now: int) -> dict[str, object]:
    """A provider with a keyring of two generations, under a signed policy."""
    approvers = Approvers(2, threshold=2, now=now)
    (place.folder / SERVICE).mkdir()
    template = place.folder / SERVICE / TEMPLATE
    database = place.database is not None
    text = settings(place.world, SERVICE, approvers.policy_root, database=database)
    template.write_text(text)
    first, again = (
        approvers.bundle(
            {"fleet": document(place.world, approvers, total)}, now=now, days=DAYS
        )
        for total in (TOTAL, TOTAL + 1)
    )

    def rotation(run: Running, counter: int, number: int) -> bytes:
        asked = Action(
            kind=ActionKind.ROTATE_KEYRING,
            policy_root=approvers.policy_root,
            keyring_id=run.keyring_id(),
            action_id=bytes([number]) * 16,
            issued_at=now,
            expires_at=now + ACTION_SECONDS,
            parameters=KeyringParameters(counter),
        )
        return approvers.action(asked)

    with place.running(SERVICE, now=now) as run:
        version = run.provider.publish(first, now=now).policy_version
        keys = {"first": run.keys(DISK)[0], "kept": run.keys(MAKE_KEPT)[0]}
        done = rotation(run, FIRST_COUNTER, 1)
        run.provider.act(done, now=now)
        keys["second"] = run.keys(DISK)[0]
        for _ in range(COUNT):
            keys["counted"] = run.keys(COUNTED)[0]
        assert run.keys(KEPT)[0] == keys["kept"]
        codes = [
            refused(run, DISK, kernel=OTHER_KERNEL),
            refused(run, KeyRequest("unheard")),
            refused(run, MAKE_KEPT),
        ]
        following = rotation(run, FIRST_COUNTER + 1, 2)
        keyring_id = run.keyring_id().hex()
    (place.folder / SERVICE / "next.tsb").write_bytes(again)
    (place.folder / SERVICE / "done.json").write_bytes(done)
    (place.folder / SERVICE / "next.json").write_bytes(following)
    return {
        "keys": keys,
        "keyring_id": keyring_id,
        "policy_version": version,
        "keyring_counter": FIRST_COUNTER + 1,
        "left": TOTAL - COUNT,
        "refused": codes,
    }


def trim(folder: Path) -> None:
    """Whole databases without their logs, and nothing that a start makes anew."""
    for path in folder.rglob("*.sqlite"):
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.execute("VACUUM")
    for pattern in ("*-wal", "*-shm", "*.lock", "tightseal.toml"):
        for path in folder.rglob(pattern):
            path.unlink()


def dump(address: str) -> str:
    """The tables in the schema that an address names, as SQL for any schema."""
    plain, _, schema = address.partition("&search_path=")
    command = ["pg_dump", "--inserts", "--no-owner", "--no-comments", "-n", schema]
    said = subprocess.run([*command, plain], check=True, capture_output=True, text=True)
    lines = [
        line
        for line in said.stdout.replace(f"{schema}.", "").splitlines()
        if not re.match(r"--|\\|SET |SELECT pg_catalog|CREATE SCHEMA|$", line)
    ]
    return "\n".join(lines) + "\n"


def entries(path: Path) -> int:
    """How many entries a journal of any version has."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM journal").fetchone()[0])


def main() -> None:
    """Make the folder that the command line names."""
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True)
    World.create(folder / "world", seed=b"the world of the version before.")
    database = sys.argv[3] if sys.argv[2:3] == ["--postgres"] else None
    place, now = Place(folder, database=database), int(time.time())
    place.world.intel.platform(MACHINE)
    made: dict[str, object] = {}
    if database is None:
        made[SIDECAR] = make_sidecar(place, now)
    made[SERVICE] = make_service(place, now)
    trim(folder)
    counted = {name: entries(place.state(name) / "journal.sqlite") for name in made}
    if database is not None:
        (folder / SERVICE / STATE_SQL).write_text(dump(database))
    expected = {"now": now, **made, "entries": counted}
    (folder / EXPECTED).write_text(json.dumps(expected, indent=1) + "\n")
    sys.stdout.write(f"made by {tightseal.__file__}: {folder}\n")


if __name__ == "__main__":
    main()
