# SPDX-License-Identifier: Apache-2.0
import errno
import hashlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from keyring_support import NOW, FakeAnchor, FakeSlot, everything, made, opened

from tightseal.errors import Code, KeyReleaseError, ServiceError, TightsealError
from tightseal.keys.keyring import (
    MAX_KEYRING_BYTES,
    Keyring,
    KeyringFile,
    Source,
    check_saved,
    keep,
    keep_new,
    rotate,
)
from tightseal.keys.keyring.system import OperatingSystem

SLOT = FakeSlot()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keyring"


@pytest.fixture
def old(path: Path) -> Keyring:
    """A keyring, and its file."""
    keyring = made(SLOT)
    keep_new(KeyringFile(path), keyring, anchor=None)
    return keyring


def refused(code: Code, run: Callable[[], object]) -> str:
    with pytest.raises(TightsealError) as caught:
        run()
    assert caught.value.code is code
    return caught.value.detail


def accept(data: bytes) -> None:
    assert data


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.parent.iterdir()}


def previous(path: Path) -> Path:
    return path.with_name("keyring.previous")


def test_a_keyring_is_written_and_found_again(path: Path, old: Keyring) -> None:
    loaded = KeyringFile(path).load()
    assert everything(opened(loaded.data, SLOT).keyring) == everything(old)
    assert loaded.digest == hashlib.sha256(path.read_bytes()).digest()
    assert (loaded.source, loaded.passed_over) == (Source.CURRENT, "")
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(path) == {"keyring", "keyring.lock"}


def test_a_change_replaces_it_and_leaves_nothing_beside_it(
    path: Path, old: Keyring
) -> None:
    file = KeyringFile(path)
    once = rotate(old, now=NOW)
    saved = keep(file, once, replaces=file.load(), anchor=None)
    twice = rotate(once, now=NOW)
    assert keep(file, twice, replaces=saved, anchor=None).leftover == ""
    assert path.read_bytes() == twice.seal()
    assert names(path) == {"keyring", "keyring.lock"}


def test_the_previous_version_is_there_until_the_new_one_was_opened(
    path: Path, old: Keyring
) -> None:
    file = KeyringFile(path)
    new = rotate(old, now=NOW).seal()

    def verify(data: bytes) -> None:
        assert data == new == path.read_bytes()
        assert previous(path).read_bytes() == old.seal()

    file.save(new, verify, replaces=file.load())
    assert not previous(path).exists()


def test_a_keyring_is_never_made_over_another(path: Path, old: Keyring) -> None:
    refused(
        Code.KEYRING_EXISTS,
        lambda: keep_new(KeyringFile(path), made(SLOT), anchor=None),
    )
    assert path.read_bytes() == old.seal()


def test_a_keyring_is_not_made_beside_a_previous_version(
    path: Path, old: Keyring
) -> None:
    path.rename(previous(path))
    detail = refused(
        Code.KEYRING_EXISTS,
        lambda: keep_new(KeyringFile(path), made(SLOT), anchor=None),
    )
    assert "keyring.previous" in detail
    assert previous(path).read_bytes() == old.seal()


def test_a_first_version_that_does_not_open_is_not_left(path: Path) -> None:
    keyring, other = made(SLOT), made(SLOT)
    refused(
        Code.KEYRING_TAMPERED,
        lambda: KeyringFile(path).create(
            other.seal(), lambda data: check_saved(data, keyring)
        ),
    )
    assert not path.exists()


def test_another_keyring_read_back_is_refused(path: Path, old: Keyring) -> None:
    file = KeyringFile(path)
    refused(
        Code.KEYRING_TAMPERED,
        lambda: file.save(
            rotate(old, now=NOW).seal(),
            lambda data: check_saved(data, old),
            replaces=file.load(),
        ),
    )
    assert path.read_bytes() == old.seal()


def test_a_change_made_from_an_older_file_is_refused(path: Path, old: Keyring) -> None:
    """Else the generation that another writer made would be lost."""
    file = KeyringFile(path)
    both = file.load()
    new = rotate(old, now=NOW)
    keep(file, new, replaces=both, anchor=None)
    refused(
        Code.STATE_CONFLICT,
        lambda: keep(file, rotate(old, now=NOW), replaces=both, anchor=None),
    )
    assert path.read_bytes() == new.seal()


def test_a_previous_version_left_over_lets_no_older_change_in(
    path: Path, old: Keyring
) -> None:
    file = KeyringFile(path)
    both = file.load()
    new = rotate(old, now=NOW)
    keep(file, new, replaces=both, anchor=None)
    previous(path).write_bytes(old.seal())
    refused(
        Code.STATE_CONFLICT,
        lambda: keep(file, rotate(old, now=NOW), replaces=both, anchor=None),
    )
    assert path.read_bytes() == new.seal()


def test_a_missing_file_is_missing(path: Path) -> None:
    file = KeyringFile(path)
    refused(Code.KEYRING_MISSING, file.load)
    refused(Code.KEYRING_MISSING, lambda: file.load(recover=True))


def test_a_file_gone_before_a_save_is_missing(path: Path, old: Keyring) -> None:
    file = KeyringFile(path)
    loaded = file.load()
    path.unlink()
    refused(
        Code.KEYRING_MISSING,
        lambda: keep(file, rotate(old, now=NOW), replaces=loaded, anchor=None),
    )


def test_the_previous_version_is_taken_only_when_told(path: Path, old: Keyring) -> None:
    path.rename(previous(path))
    file = KeyringFile(path)
    assert "recover from it" in refused(Code.KEYRING_MISSING, file.load)
    loaded = file.load(recover=True)
    assert loaded.data == old.seal()
    assert loaded.source is Source.PREVIOUS
    assert "no such file" in loaded.passed_over


@pytest.mark.parametrize("broken", [b"", b"\x86", b"x" * (MAX_KEYRING_BYTES + 1)])
def test_a_broken_file_is_passed_over_only_when_told(
    path: Path, old: Keyring, broken: bytes
) -> None:
    path.rename(previous(path))
    path.write_bytes(broken)
    loaded = KeyringFile(path).load(recover=True)
    assert loaded.data == old.seal()
    assert loaded.source is Source.PREVIOUS
    assert "keyring_malformed" in loaded.passed_over


def test_a_good_file_is_never_passed_over(path: Path, old: Keyring) -> None:
    new = rotate(old, now=NOW)
    keep(KeyringFile(path), new, replaces=KeyringFile(path).load(), anchor=None)
    previous(path).write_bytes(old.seal())
    assert KeyringFile(path).load(recover=True).data == new.seal()


def test_recovery_judges_by_what_it_is_told_to(path: Path, old: Keyring) -> None:
    flipped = bytearray(old.seal())
    flipped[-1] ^= 1
    path.rename(previous(path))
    path.write_bytes(flipped)

    def check(data: bytes) -> None:
        opened(data, SLOT)

    file = KeyringFile(path)
    assert file.load(recover=True).data == bytes(flipped)
    loaded = file.load(recover=True, check=check)
    assert loaded.data == old.seal()
    assert "keyring_tampered" in loaded.passed_over


def test_where_neither_is_good_the_newer_is_reported(path: Path) -> None:
    path.write_bytes(b"")
    previous(path).write_bytes(b"\x00")
    refused(Code.KEYRING_MALFORMED, lambda: KeyringFile(path).load(recover=True))


def test_a_change_after_a_recovery_replaces_the_broken_file(
    path: Path, old: Keyring
) -> None:
    path.rename(previous(path))
    path.write_bytes(b"broken")
    file = KeyringFile(path)
    new = rotate(old, now=NOW)
    keep(file, new, replaces=file.load(recover=True), anchor=None)
    assert path.read_bytes() == new.seal()
    assert names(path) == {"keyring", "keyring.lock"}


def test_of_two_recoveries_one_goes_through(path: Path, old: Keyring) -> None:
    path.rename(previous(path))
    file = KeyringFile(path)
    both = file.load(recover=True)
    new = rotate(old, now=NOW)
    keep(file, new, replaces=both, anchor=None)
    refused(
        Code.STATE_CONFLICT,
        lambda: keep(file, rotate(old, now=NOW), replaces=both, anchor=None),
    )
    assert path.read_bytes() == new.seal()


def test_a_file_behind_a_link_is_not_followed(path: Path) -> None:
    real = path.with_name("elsewhere")
    real.write_bytes(made(SLOT).seal())
    path.symlink_to(real)
    refused(Code.STATE_UNAVAILABLE, KeyringFile(path).load)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    file = KeyringFile(tmp_path / "missing" / "keyring")
    refused(
        Code.STATE_UNAVAILABLE,
        lambda: file.create(made(SLOT).seal(), accept),
    )


def test_a_previous_version_that_cannot_be_removed_is_said(
    path: Path, old: Keyring
) -> None:
    class Sticky(OperatingSystem):
        def unlink(self, path: str) -> None:
            raise PermissionError(1, "Operation not permitted", path)

    file = KeyringFile(path, system=Sticky())
    saved = keep(file, rotate(old, now=NOW), replaces=file.load(), anchor=None)
    assert "Operation not permitted" in saved.leftover
    assert previous(path).read_bytes() == old.seal()
    again = rotate(rotate(old, now=NOW), now=NOW)
    keep(KeyringFile(path), again, replaces=KeyringFile(path).load(), anchor=None)
    assert not previous(path).exists()


@contextmanager
def writer(path: Path, new: Path) -> Iterator[None]:
    """Another process in the middle of a save."""
    script = Path(__file__).with_name("keyring_writer.py")
    process = subprocess.Popen(
        [sys.executable, str(script), str(path), str(new)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_a_lock_excludes_another_process_and_ends_with_it(
    path: Path, old: Keyring, tmp_path: Path
) -> None:
    file = KeyringFile(path)
    loaded = file.load()
    new = rotate(old, now=NOW)
    copy = tmp_path / "copy"
    copy.write_bytes(new.seal())
    with writer(path, copy):
        refused(
            Code.STATE_CONFLICT,
            lambda: keep(file, rotate(old, now=NOW), replaces=loaded, anchor=None),
        )
        assert previous(path).exists()
    third = rotate(new, now=NOW)
    keep(file, third, replaces=file.load(), anchor=None)
    assert path.read_bytes() == third.seal()
    assert not previous(path).exists()


def test_a_lock_excludes_another_thread(path: Path, old: Keyring) -> None:
    file, other = KeyringFile(path), KeyringFile(path)
    loaded = file.load()
    new = rotate(old, now=NOW).seal()
    codes: list[Code] = []

    def intrude() -> None:
        try:
            other.save(new, accept, replaces=loaded)
        except ServiceError as e:
            codes.append(e.code)

    def verify(_: bytes) -> None:
        thread = threading.Thread(target=intrude)
        thread.start()
        thread.join()

    file.save(new, verify, replaces=loaded)
    assert codes == [Code.STATE_CONFLICT]


def test_an_anchor_hears_of_what_is_safe_and_of_nothing_else(path: Path) -> None:
    anchor = FakeAnchor()
    keyring = made(SLOT)
    file = KeyringFile(path)
    saved = keep_new(file, keyring, anchor=anchor)
    keyring_id = keyring.header.keyring_id
    assert anchor.remembered(keyring_id) == 1
    with pytest.raises(KeyReleaseError):
        keep_new(file, keyring, anchor=anchor)
    keep(file, rotate(keyring, now=NOW), replaces=saved, anchor=anchor)
    assert anchor.remembered(keyring_id) == 2


def test_no_descriptor_is_left_open(path: Path, old: Keyring) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    file = KeyringFile(path)
    first = file.load()
    keep(file, rotate(old, now=NOW), replaces=first, anchor=None)
    refused(Code.STATE_CONFLICT, lambda: file.save(b"x", accept, replaces=first))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_lock_that_is_taken_is_known_by_either_errno(path: Path) -> None:
    class Taken(OperatingSystem):
        def lock(self, fd: int) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("fcntl.lockf", self.refuse)
                super().lock(fd)

        def refuse(self, fd: int, flags: int) -> None:
            assert fd > 0
            assert flags
            raise PermissionError(errno.EACCES, "Permission denied")

    file = KeyringFile(path, system=Taken())
    refused(Code.STATE_CONFLICT, lambda: file.create(made(SLOT).seal(), accept))
    assert not path.exists()
