# SPDX-License-Identifier: Apache-2.0
"""The result cache: bounded, least used out first, safe under threads."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tightseal.evidence.cache import CacheKey, ResultCache


def key(n: int) -> CacheKey:
    return ("role", "root", n.to_bytes(4, "big"))


def test_the_least_recently_used_goes_first() -> None:
    cache = ResultCache(2)
    cache.put(key(1), "one")
    cache.put(key(2), "two")
    assert cache.get(key(1)) == "one"
    cache.put(key(3), "three")
    assert cache.get(key(2)) is None
    assert (cache.get(key(1)), cache.get(key(3))) == ("one", "three")


def test_role_and_root_are_part_of_the_key() -> None:
    cache = ResultCache(10)
    cache.put(("pck_chain", "a", b"x"), 1)
    assert cache.get(("pck_crl", "a", b"x")) is None
    assert cache.get(("pck_chain", "b", b"x")) is None


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60),
)
def test_it_behaves_as_a_bounded_table(
    size: int, steps: list[tuple[bool, int]]
) -> None:
    cache, model = ResultCache(size), dict[int, str]()
    for write, n in steps:
        if write:
            model.pop(n, None)
            model[n] = str(n)
            cache.put(key(n), str(n))
            if len(model) > size:
                del model[next(iter(model))]
        else:
            assert cache.get(key(n)) == model.get(n)
            if n in model:
                model[n] = model.pop(n)
        assert len(cache) == len(model) <= size


def test_threads_never_break_the_bound() -> None:
    cache = ResultCache(8)

    def work(seed: int) -> None:
        for i in range(2000):
            n = (seed * 31 + i * 7) % 40
            got = cache.get(key(n))
            assert got in (None, n + 1)
            cache.put(key(n), n + 1)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(cache) == 8


def test_clearing_forgets_everything() -> None:
    cache = ResultCache(2)
    cache.put(key(1), "one")
    cache.clear()
    assert len(cache) == 0
    assert cache.get(key(1)) is None


def test_a_cache_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        ResultCache(0)
