"""Threads on one cache: the same keys and different ones; every value says whose and which it is."""

import itertools
import random
import threading
import time

import pytest
from cache_data import KINDS, make_cache
from cache_threads import HEAD, THREADS, crew, sizes, value_of, version_of

from coldmem import MemoryLimitError


@pytest.fixture(params=KINDS)
def cache(request, tmp_path):
    options = {"disk_max": "24MiB"} if request.param in ("disk", "persistent") else {}
    with make_cache(request.param, tmp_path, "6MiB", **options) as made:
        yield made
        made.check_valid()
        made.expire()
        s = made.stats()
        assert s["memory_used_bytes"] <= s["memory_max_bytes"]
        assert s["entries"] == len(list(made))


@pytest.mark.tsan
def test_the_same_keys(cache, stress_seconds):
    """Versions grow: who has seen one never sees an older one, whichever way the value comes."""
    keys = range(40)
    versions = {key: itertools.count(1) for key in keys}
    locks = {
        key: threading.Lock() for key in keys
    }  # one writer a key, so that versions are in order
    written = dict.fromkeys(keys, 0)

    def job(seed):
        pick = random.Random(seed)
        seen = dict.fromkeys(keys, 0)

        def step():
            key = pick.choice(keys)
            what = pick.random()
            if what < 0.6:
                least = max(seen[key], 0)
                value = cache.get(key)
                if value is not None:
                    version = version_of(value, key)
                    assert version >= least
                    seen[key] = version
            elif what < 0.9:
                with locks[key]:
                    version = next(versions[key])
                    try:
                        cache[key] = value_of(key, version, sizes(pick))
                    except MemoryLimitError:
                        return
                    written[key] = version
            elif what < 0.95:
                with locks[key]:
                    value = cache.pop(key, None)
                    assert value is None or version_of(value, key) == written[key]
                    assert cache.get(key) is None
            else:
                cache.evict(100_000)
                list(cache)

        return step

    crew([job(seed) for seed in range(THREADS)], stress_seconds / 3)
    for key in keys:
        value = cache.get(key)
        assert value is None or version_of(value, key) == written[key]


@pytest.mark.tsan
def test_keys_of_their_own(cache, stress_seconds):
    """Each thread has keys of its own: what is there is the last that was set."""
    lossless = cache.lossless

    def job(me):
        pick = random.Random(me)
        model = {}

        def step():
            key = pick.randrange(150) * THREADS + me
            what = pick.random()
            if what < 0.5:
                value = cache.get(key)
                if value is None:
                    assert key not in model or not lossless
                else:
                    assert version_of(value, key) == model[key]
            elif what < 0.85:
                version = pick.randrange(1 << 40)
                try:
                    cache[key] = value_of(key, version, sizes(pick))
                    model[key] = version
                except MemoryLimitError:
                    pass  # what was there is still there
            elif what < 0.97:
                try:
                    del cache[key]
                except KeyError:
                    assert key not in model or not lossless
                model.pop(key, None)
                assert key not in cache
            else:
                found = cache.get_many(model)
                for one, value in found.items():
                    assert version_of(value, one) == model[one]
                if lossless:
                    assert len(found) == len(model)

        return step

    crew([job(me) for me in range(THREADS)], stress_seconds / 3)


@pytest.mark.tsan
def test_beside_iteration_lifetimes_and_clear(cache, stress_seconds):
    fixed = {1000 + n: value_of(1000 + n, n, 500) for n in range(50)}

    def write(seed):
        pick = random.Random(seed)

        def step():
            key = pick.randrange(300)
            try:
                cache.set(
                    key,
                    value_of(key, pick.randrange(1 << 30), sizes(pick)),
                    ttl=pick.choice([None, 0.02, 1000]),
                )
            except MemoryLimitError:
                cache.delete_many(range(300))

        return step

    def read():
        for key, value in cache.items():
            if isinstance(key, int):
                version_of(value, key)
            else:
                assert value == [key]

    def objects():
        for n in range(20):
            try:
                cache["object", n] = [("object", n)]
            except MemoryLimitError:
                pass
        for n in range(20):
            assert cache.get(("object", n)) in (None, [("object", n)])
        cache.pop(("object", 3), None)

    def rest():
        cache.expire()
        cache.stats()
        cache.evict(50_000)
        time.sleep(0.005)

    def clear():
        time.sleep(0.05)
        cache.clear()
        cache.set_many(fixed)

    crew([write(1), write(2), read, objects, rest, clear], stress_seconds / 3)


@pytest.mark.tsan
def test_setdefault_and_pop_have_one_winner(cache, run_threads):
    for key in range(60):
        values = [value_of(key, n, 300 + 3000 * (key % 3)) for n in range(THREADS)]
        found = run_threads(*[lambda n=n: cache.setdefault(key, values[n]) for n in range(THREADS)])
        assert len(set(found)) == 1
        assert cache[key] == found[0]
        if key % 2:
            cache.evict("6MiB")
            if key not in cache:
                continue
        popped = run_threads(*[lambda: cache.pop(key, None)] * THREADS)
        assert [value for value in popped if value is not None] == [found[0]]
        assert key not in cache


@pytest.mark.tsan
def test_one_load_for_all(cache, run_threads, stress_seconds):
    calls = dict.fromkeys(range(100), 0)

    def load(key):
        calls[key] += 1
        time.sleep(0.001)
        return [key]

    def worker():
        return [cache.get_or_load(key, lambda key=key: load(key)) for key in calls]

    results = run_threads(*[worker] * THREADS)
    assert results == [[[key] for key in calls]] * THREADS
    assert set(calls.values()) == {1}
    assert len(cache) == 100


@pytest.mark.tsan
def test_a_load_that_fails_in_many_threads(cache, run_threads):
    error = LookupError("no")

    def load():
        time.sleep(0.01)
        raise error

    def worker():
        try:
            cache.get_or_load("k", load)
        except LookupError as found:
            return found

    assert run_threads(*[worker] * THREADS) == [error] * THREADS
    assert "k" not in cache


@pytest.mark.tsan
def test_close_under_use(tmp_path, run_threads):
    """Whoever comes late hears that it is closed; nobody crashes."""
    from coldmem.errors import ClosedError

    for kind in KINDS:
        cache = make_cache(
            kind, tmp_path / kind if (tmp_path / kind).mkdir() is None else None, "2MiB"
        )
        go = threading.Event()

        def use(cache=cache, go=go):
            pick = random.Random(threading.get_ident())
            try:
                for n in itertools.count():
                    key = pick.randrange(100)
                    try:
                        cache[key] = value_of(key, n, sizes(pick))
                    except MemoryLimitError:
                        pass
                    value = cache.get(pick.randrange(100))
                    assert value is None or len(value) >= HEAD.size
                    if n == 20:
                        go.set()
            except ClosedError:
                return True

        def close(cache=cache, go=go):
            go.wait(30)
            cache.close()
            return True

        assert run_threads(use, use, use, close) == [True] * 4
