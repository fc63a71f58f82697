"""A Cache against a dict: random operations; contents, limits and structure after each step."""

import itertools
import shutil
import tempfile
from pathlib import Path

from cache_data import has_disk, make_cache, noise, pass_time, text
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coldmem import MemoryLimitError

KEYS = st.sampled_from(["a", "b", "c", b"a", 1, 2, -1, ("t", 1), ("t", 2), None, "", b"", 1 << 70, "x" * 1500])
SIZES = st.sampled_from([0, 1, 60, 1000, 4096, 4097, 20_000, 65_536, 65_537, 300_000])
MAKES = st.sampled_from([
    text, noise, lambda n, i: bytes(n), lambda n, i: [i, text(n, i)], lambda n, i: {"n": i, "data": bytearray(noise(n, i))},
])
TTLS = st.sampled_from([None, None, None, 20, 50, 10_000])
FLAVOURS = {
    "large": ("ram", "64MiB", {}),  # no pressure: equal to the dict
    "ram": ("ram", "1MiB", {}),
    "lru": ("lru", "1MiB", {}),
    "disk": ("disk", "1MiB", {"disk_max": "64MiB"}),
    "small_disk": ("disk", "1MiB", {"disk_max": "2MiB"}),
    "persistent": ("persistent", "1MiB", {}),
    "lossless": ("lossless", "1MiB", {"disk_max": "64MiB"}),
    "small_lossless": ("lossless", "1MiB", {"disk_max": "2MiB"}),
}
# What each may drop by itself: all else is there, whatever happens.
MAY_DROP = {
    "large": set(), "ram": {"memory"}, "lru": {"memory"}, "disk": set(), "small_disk": {"memory", "disk"},
    "persistent": set(), "lossless": set(), "small_lossless": set(),
}


class Model(RuleBasedStateMachine):
    @initialize(flavour=st.sampled_from(sorted(FLAVOURS)), codec=st.sampled_from(["auto", "lz4", "raw"]))
    def begin(self, flavour, codec):
        self.flavour = flavour
        self.codec = codec
        self.folder = Path(tempfile.mkdtemp())
        self.model = {}  # key -> (value, when it ends or None); exact, since on_evict tells what goes
        self.now = 0
        self.serial = itertools.count()
        self.heard = []
        self.open()

    def open(self):
        kind, memory, options = FLAVOURS[self.flavour]
        self.cache = make_cache(kind, self.folder, memory, codec=self.codec, on_evict=self.hear, **options)

    def teardown(self):
        if hasattr(self, "cache"):
            self.see_all()
            self.cache.close()
            shutil.rmtree(self.folder)

    # -- what the model knows ----------------------------------------------------------------------
    def hear(self, key, reason):
        self.heard.append((key, reason))
        if reason == "expired":
            assert key not in self.model or self.ended(key)
        else:
            assert reason in MAY_DROP[self.flavour], (key, reason)
            assert key in self.model
        self.model.pop(key, None)

    def ended(self, key):
        end = self.model[key][1]
        return end is not None and end <= self.now

    def alive(self):
        return {key: value for key, (value, _) in self.model.items() if not self.ended(key)}

    def forget_ended(self, key):
        if key in self.model and self.ended(key):
            del self.model[key]

    def put(self, key, value, ttl, act):
        """What `act` does, or is refused; the model follows."""
        del self.heard[:]
        try:
            act()
        except MemoryLimitError:
            assert self.flavour != "large"
            assert self.cache.get(key, None) == self.alive().get(key)
            return
        if any(heard == key for heard, _ in self.heard) and key not in self.cache:
            self.model.pop(key, None)  # it was pushed out by what it pushed
            return
        self.model[key] = (value, None if ttl is None else self.now + ttl)

    # -- what is done ------------------------------------------------------------------------------
    @rule(key=KEYS, n=SIZES, make=MAKES, ttl=TTLS)
    def set(self, key, n, make, ttl):
        value = make(n, next(self.serial))
        if self.flavour == "persistent":
            ttl = ttl and 10_000  # its lifetimes go by the wall clock
        self.put(key, value, ttl, lambda: self.cache.set(key, value, ttl=ttl))

    @rule(keys=st.lists(KEYS, unique=True, max_size=8), n=SIZES, make=MAKES)
    def set_many(self, keys, n, make):
        for key in keys:
            value = make(n // 4, next(self.serial))
            self.put(key, value, None, lambda: self.cache.set_many({key: value}))

    @rule(key=KEYS)
    def get(self, key):
        expected = self.alive()
        found = self.cache.get(key, self)
        assert found == expected.get(key, self)
        assert type(found) is type(expected.get(key, self))
        assert (key in self.cache) == (key in expected)

    @rule(keys=st.lists(KEYS))
    def get_many(self, keys):
        """Reading may bring a value to RAM and push out another, so that a later one is missing."""
        before = self.alive()
        found = self.cache.get_many(keys)
        for key in keys:
            assert found.get(key, self) in (before.get(key, self), self)
        after = self.alive()
        assert all(key in found for key in keys if key in after)

    @rule(key=KEYS)
    def delete(self, key):
        expected = key in self.alive()
        try:
            del self.cache[key]
        except KeyError:
            assert not expected
        else:
            assert expected
        self.model.pop(key, None)
        assert key not in self.cache

    @rule(key=KEYS)
    def pop(self, key):
        expected = self.alive().get(key, self)
        assert self.cache.pop(key, self) == expected
        self.model.pop(key, None)
        assert key not in self.cache

    @rule()
    def popitem(self):
        before = self.alive()
        try:
            key, value = self.cache.popitem()
        except KeyError:
            assert not self.alive()
        else:
            assert before[key] == value
            self.model.pop(key, None)

    @rule(key=KEYS, n=SIZES, make=MAKES)
    def setdefault(self, key, n, make):
        self.forget_ended(key)
        default = make(n, next(self.serial))
        before = self.alive()
        if key in before:
            assert self.cache.setdefault(key, default) == before[key]
        else:
            self.put(key, default, None, lambda: self.cache.setdefault(key, default))

    @rule(key=KEYS, n=SIZES, make=MAKES)
    def get_or_load(self, key, n, make):
        self.forget_ended(key)
        value = make(n, next(self.serial))
        before = self.alive()
        if key in before:
            assert self.cache.get_or_load(key, lambda: value) == before[key]
        else:
            self.put(key, value, None, lambda: self.cache.get_or_load(key, lambda: value))

    @rule(nbytes=st.sampled_from([1, 5000, 200_000, 1 << 20]))
    def evict(self, nbytes):
        if self.flavour != "large":
            try:
                self.cache.evict(nbytes)
            except MemoryLimitError:
                assert self.flavour == "small_lossless"

    @precondition(lambda self: self.flavour != "persistent")
    @rule(seconds=st.sampled_from([1, 15, 40]))
    def wait(self, seconds):
        pass_time(self.cache, seconds)
        self.now += seconds

    @rule()
    def expire(self):
        self.cache.expire()
        assert not any(self.ended(key) for key in self.model)  # all were heard
        assert len(self.cache) == len(self.model)

    @rule()
    def clear(self):
        self.cache.clear()
        self.model.clear()
        assert len(self.cache) == 0

    @rule()
    def flush(self):
        self.cache.flush()

    @precondition(lambda self: self.flavour == "persistent")
    @rule()
    def reopen(self):
        self.cache.close()
        self.open()
        assert set(self.cache) == set(self.alive())

    # -- what always holds -------------------------------------------------------------------------
    @invariant()
    def see_structure(self):
        if not hasattr(self, "cache"):
            return
        self.cache.check_valid()
        s = self.cache.stats()
        assert s["memory_used_bytes"] <= s["memory_max_bytes"]
        if s["disk_max_bytes"]:
            assert s["disk_used_bytes"] <= s["disk_max_bytes"]
        assert s["entries"] == len(self.cache) == s["ram_entries"] + s["disk_entries"]
        keys = list(self.cache)
        assert len(keys) == len(set(keys))
        assert set(keys) == set(self.alive())
        assert s["disk_entries"] == 0 or has_disk(self.cache)

    @rule()
    def see_all(self):
        for key in list(self.alive()):
            value = self.cache.get(key, self)
            assert value == self.alive().get(key, self)


def test_cache_equals_a_dict():
    run_state_machine_as_test(Model, settings=settings(
        max_examples=60, stateful_step_count=30, deadline=None,
        suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    ))
