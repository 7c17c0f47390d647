# SPDX-License-Identifier: Apache-2.0
"""Who uses a keyring: many at once, or one alone; across processes and inside one."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tightseal.errors import Code, ServiceError
from tightseal.service.inuse import alone, use

HOLD = (
    "import sys; from pathlib import Path; from tightseal.service import inuse\n"
    "place = Path(sys.argv[2])\n"
    "held = inuse.alone(place) if sys.argv[1] == 'alone' else inuse.use(place)\n"
    "held.__enter__() if sys.argv[1] == 'alone' else None\n"
    "print('held', flush=True); sys.stdin.read()\n"
)


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    return tmp_path / "keyring.tsk"


@contextmanager
def another(how: str, keyring: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has it."""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, how, str(keyring)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        yield child
    finally:
        child.kill()
        child.communicate()


def refused(take: Callable[[], object]) -> ServiceError:
    with pytest.raises(ServiceError) as raised:
        take()
    return raised.value


def test_many_use_it_at_once(keyring: Path) -> None:
    with another("use", keyring), another("use", keyring):
        leave = use(keyring)
        use(keyring)()
        leave()


def test_nobody_has_it_alone_while_another_process_uses_it(keyring: Path) -> None:
    with another("use", keyring):
        error = refused(alone(keyring).__enter__)
        assert error.code is Code.STATE_CONFLICT
        assert "stop them first" in error.detail
    with alone(keyring):
        pass


def test_nobody_uses_it_while_another_process_has_it_alone(keyring: Path) -> None:
    with another("alone", keyring):
        error = refused(lambda: use(keyring))
        assert error.code is Code.STATE_CONFLICT
        assert "is being renewed" in error.detail
        assert refused(alone(keyring).__enter__).code is Code.STATE_CONFLICT
    use(keyring)()


def test_inside_one_process_the_same_holds(keyring: Path) -> None:
    """A lock of POSIX would let the same process in, and drop it for all of it."""
    first, second = use(keyring), use(keyring)
    assert refused(alone(keyring).__enter__).code is Code.STATE_CONFLICT
    first()
    first()
    assert refused(alone(keyring).__enter__).code is Code.STATE_CONFLICT
    second()
    with alone(keyring):
        assert refused(lambda: use(keyring)).code is Code.STATE_CONFLICT
        assert refused(alone(keyring).__enter__).code is Code.STATE_CONFLICT
    use(keyring)()


def test_one_keyring_does_not_hold_up_another(keyring: Path, tmp_path: Path) -> None:
    leave = use(keyring)
    with alone(tmp_path / "another.tsk"):
        pass
    leave()


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_keyring_that_cannot_be_written_is_used_and_not_renewed(
    keyring: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def denied(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", denied)
        use(keyring)()
        error = refused(alone(keyring).__enter__)
    assert error.code is Code.STATE_UNAVAILABLE


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    gone = tmp_path / "gone" / "keyring.tsk"
    assert refused(lambda: use(gone)).code is Code.STATE_UNAVAILABLE
