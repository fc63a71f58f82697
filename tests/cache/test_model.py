"""A cache against a dict: any sequence of operations, checked after each step."""

import random
import shutil
import tempfile
from pathlib import Path

from cache_data import pass_time
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from coldmem import Cache
from coldmem.errors import MemoryLimitError

MIB = 1 << 20
KEYS = st.one_of(
    st.integers(-3, 40),
    st.integers(0, 12).map(lambda n: f"key {n}"),
    st.integers(0, 6).map(lambda n: b"%d" % n * 30),
    st.tuples(st.integers(0, 3), st.sampled_from(["a", "b"])),
    st.sampled_from([None, 0.5, -(1 << 63), 1 << 63, "\ud800", "", b""]),
)
# (bytes, seed, compressible): made from three numbers, so that Hypothesis has little to shrink.
SIZES = st.sampled_from([0, 1, 17, 200, 1000, 3000, 4096, 4097, 9000, 33_000, 65_536, 150_000])


def make(nbytes, seed, plain):
    pick = random.Random(seed)
    if plain:
        return (b"%d, " % seed + pick.randbytes(50) + b"a" * 150) * (nbytes // 200 + 1)
    return pick.randbytes(nbytes)


VALUES = st.one_of(
    st.builds(lambda n, seed, plain: make(n, seed, plain)[:n], SIZES, st.integers(0, 99), st.booleans()),
    st.integers(0, 1000).map(lambda n: {"number": n, "list": [n] * 20}),
    st.none(),
)


class CacheModel(RuleBasedStateMachine):
    """`model`: what was set last. A cache under pressure may lack some of it, but never has else."""

    lossy = False
    memory = 64 * MIB

    def options(self):
        return {}

    @initialize(policy=st.sampled_from(["s3fifo", "lru"]))
    def open(self, policy):
        self.folder = Path(tempfile.mkdtemp())
        self.told = []
        self.more = {"policy": policy}
        self.cache = self.make()
        self.model = {}
        self.lives = {}  # key -> seconds left
        self.steps = 0

    def make(self):
        return Cache(self.memory, on_evict=self.hear, **(self.options() | self.more))

    def hear(self, key, reason):
        self.told.append((key, reason))

    def teardown(self):
        if hasattr(self, "cache"):
            self.cache.check_valid()
            self.cache.close()
            shutil.rmtree(self.folder)

    def note(self, key, value, ttl=None):
        self.model.pop(key, None)
        self.model[key] = value
        self.lives.pop(key, None)
        if ttl is not None:
            self.lives[key] = ttl

    def forget(self, key):
        self.lives.pop(key, None)
        return self.model.pop(key)

    def agree(self, key, found, absent):
        """`found` is what the cache says of `key`; `absent` stands for nothing."""
        if found is absent and self.lossy:
            return
        want = self.model.get(key, absent)
        assert found is absent if want is absent else found == want, (key, want)

    @rule(key=KEYS, value=VALUES)
    def set(self, key, value):
        self.cache[key] = value
        self.note(key, value)

    @rule(key=KEYS, value=VALUES, ttl=st.sampled_from([100, 1000, 1e6]))
    def set_for_a_while(self, key, value, ttl):
        self.cache.set(key, value, ttl=ttl)
        self.note(key, value, ttl)

    @rule(pairs=st.dictionaries(KEYS, VALUES, max_size=5))
    def set_many(self, pairs):
        self.cache.set_many(pairs)
        for key, value in pairs.items():
            self.note(key, value)

    @rule(seed=st.integers(0, 5), count=st.integers(1, 60), nbytes=st.sampled_from([300, 2000, 8000]))
    def set_a_run(self, seed, count, nbytes):
        for number in range(count):
            key = f"run {number}"
            value = make(nbytes, seed * 1000 + number, number % 3)
            self.cache[key] = value
            self.note(key, value)

    @rule(key=KEYS)
    def get(self, key):
        missing = object()
        self.agree(key, self.cache.get(key, missing), missing)

    @rule(keys=st.lists(KEYS, max_size=8))
    def get_many(self, keys):
        found = self.cache.get_many(keys)
        want = {key: self.model[key] for key in keys if key in self.model}
        assert found.items() <= want.items() if self.lossy else found == want

    @rule(key=KEYS)
    def delete(self, key):
        try:
            del self.cache[key]
        except KeyError:
            assert self.lossy or key not in self.model
            self.model.pop(key, None)
            self.lives.pop(key, None)
        else:
            self.forget(key)
        assert key not in self.cache

    @rule(key=KEYS)
    def pop(self, key):
        missing = object()
        self.agree(key, self.cache.pop(key, missing), missing)
        self.model.pop(key, None)
        self.lives.pop(key, None)
        assert key not in self.cache

    @precondition(lambda self: self.model)
    @rule()
    def popitem(self):
        try:
            key, value = self.cache.popitem()
        except KeyError:
            assert self.lossy
            return
        assert value == self.forget(key)

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key, value):
        found = self.cache.setdefault(key, value)
        if key in self.model and not self.lossy:
            assert found == self.model[key]
        elif key in self.model:
            assert found in (self.model[key], value)
            if found != self.model[key]:
                self.note(key, value)
            elif found == value:
                self.lives.pop(key, None)
        else:
            assert found == value
            self.note(key, value)

    @rule(seconds=st.sampled_from([50, 200, 3000]))
    def wait(self, seconds):
        pass_time(self.cache, seconds)
        for key, left in list(self.lives.items()):
            if left <= seconds:
                self.forget(key)
            else:
                self.lives[key] = left - seconds

    @rule()
    def expire(self):
        self.cache.expire()

    @rule(nbytes=st.sampled_from([1, 100_000, 10 * MIB]))
    def evict(self, nbytes):
        if self.cache._tier is not None:
            self.cache.evict(nbytes)

    @rule()
    def flush(self):
        self.cache.flush()

    @rule()
    def clear(self):
        self.cache.clear()
        self.model.clear()
        self.lives.clear()
        assert len(self.cache) == 0

    @invariant()
    def agrees(self):
        if not hasattr(self, "cache"):
            return
        self.cache.check_valid()
        numbers = self.cache.stats()
        assert numbers["memory_used_bytes"] <= numbers["memory_max_bytes"]
        self.steps += 1
        keys = list(self.cache)
        assert len(keys) == len(set(keys))
        if self.lossy:
            for key, value in self.cache.items():
                assert self.model[key] == value, key
            return
        # An iterator may still name what is past its time; nothing else may.
        assert set(self.model) <= set(keys)
        assert {key for key in keys if key in self.cache} == set(self.model)
        if self.steps % 4 == 0:
            assert self.cache.get_many(keys) == self.model
        assert not [row for row in self.told if row[1] != "expired"]


class PressedModel(CacheModel):
    """1 MiB, so that much has to go."""

    lossy = True
    memory = MIB


class LosslessModel(CacheModel):
    """1 MiB before a disk that takes all."""

    memory = MIB

    def options(self):
        return {"directory": self.folder, "lossless": True}


class PersistentModel(LosslessModel):
    """The same, closed and opened again now and then."""

    def options(self):
        return {"path": self.folder / "cache", "lossless": True}

    @rule()
    def wait(self):
        """What is on disk ends by the clock on the wall, which the test leaves alone."""

    @rule()
    def reopen(self):
        self.cache.close()
        self.cache = self.make()


class FullDiskModel(CacheModel):
    """1 MiB before a disk of 1 MiB."""

    lossy = True
    memory = MIB

    def options(self):
        return {"directory": self.folder, "disk_max": MIB}


class LosslessFullModel(CacheModel):
    """Memory that fills up, and nothing may be lost."""

    memory = MIB

    def options(self):
        return {"lossless": True}

    @rule(key=KEYS, value=VALUES)
    def set(self, key, value):
        try:
            self.cache[key] = value
        except MemoryLimitError:
            return  # what was there still is: the invariant looks
        self.note(key, value)

    @rule(key=KEYS, value=VALUES, ttl=st.sampled_from([100, 1000, 1e6]))
    def set_for_a_while(self, key, value, ttl):
        try:
            self.cache.set(key, value, ttl=ttl)
        except MemoryLimitError:
            return
        self.note(key, value, ttl)

    @rule(pairs=st.dictionaries(KEYS, VALUES, max_size=5))
    def set_many(self, pairs):
        for key, value in pairs.items():
            self.set(key, value)

    @rule(seed=st.integers(0, 5), count=st.integers(1, 60), nbytes=st.sampled_from([300, 2000, 8000]))
    def set_a_run(self, seed, count, nbytes):
        for number in range(count):
            self.set(f"run {number}", make(nbytes, seed * 1000 + number, number % 3))

    @rule(key=KEYS, value=VALUES)
    def setdefault(self, key, value):
        try:
            super().setdefault(key, value)
        except MemoryLimitError:
            assert key not in self.model


def _runs(model, examples):
    model.TestCase.settings = settings(
        max_examples=examples, stateful_step_count=30, deadline=None,
        suppress_health_check=list(HealthCheck))
    return model.TestCase


TestCache = _runs(CacheModel, 20)
TestPressed = _runs(PressedModel, 20)
TestLossless = _runs(LosslessModel, 20)
TestPersistent = _runs(PersistentModel, 20)
TestFullDisk = _runs(FullDiskModel, 15)
TestLosslessFull = _runs(LosslessFullModel, 15)
