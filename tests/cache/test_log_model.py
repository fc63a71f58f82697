"""The log against a dict: any sequence of operations, closes and crashes, checked after each step."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coldmem.cache.log import Log
from coldmem.errors import MemoryLimitError

KEYS = st.binary(min_size=1, max_size=2).map(lambda b: bytes(x % 5 for x in b))
PAYLOADS = st.one_of(st.binary(max_size=40),
                     st.tuples(st.binary(min_size=1, max_size=4), st.integers(1, 3000)).map(
                         lambda t: t[0] * t[1]))
RECORDS = st.lists(st.tuples(KEYS, st.binary(max_size=9), PAYLOADS), min_size=1, max_size=12,
                   unique_by=lambda record: record[0])


class LogModel(RuleBasedStateMachine):
    """`entries`: key -> (meta, payload, location), as a cache has it.

    A crash drops the log without closing it: files are then as a killed process leaves them. What
    was only freed (evicted) may be back after a crash, as it was or not at all; what was freed as gone
    is not, after a flush.
    """

    @initialize(persistent=st.booleans(), disk_max=st.sampled_from([None, 100_000]))
    def open(self, persistent, disk_max):
        self.folder = Path(tempfile.mkdtemp())
        self.options = {"disk_max": disk_max, "persistent": persistent, "segment_bytes": 4096}
        self.entries = {}
        self.evicted = {}  # key -> (meta, payload): may come back by a crash
        self.gone = set()  # keys of these that may not after the next flush
        self.log = Log(self.folder / "log" if persistent else self.folder, **self.options)

    def teardown(self):
        if hasattr(self, "log"):
            self.log.close()
            shutil.rmtree(self.folder)

    def forget(self, key, gone=False):
        *_, location = self.entries.pop(key)
        self.log.free(location, gone)

    @rule(records=RECORDS, split=st.integers(0, 30))
    def append(self, records, split):
        rows = [(key, meta, [payload[:split], payload[split:]] if split % 2 else [payload])
                for key, meta, payload in records]
        try:
            locations = self.log.append(rows)
        except MemoryLimitError:
            assert self.options["disk_max"]
            assert self.log.used_bytes + sum(len(row[2]) for row in records) > 50_000
            return
        for (key, meta, payload), location in zip(records, locations, strict=True):
            if key in self.entries:
                self.forget(key)
            self.evicted.pop(key, None)
            self.entries[key] = meta, payload, location

    @rule(keys=st.lists(KEYS, max_size=8, unique=True), tell_first=st.booleans())
    def remove(self, keys, tell_first):
        if tell_first:
            self.log.remove(keys)
        for key in keys:
            if key in self.entries:
                self.forget(key)
            self.evicted.pop(key, None)
        if not tell_first:
            self.log.remove(keys)

    @rule(share=st.integers(1, 3), gone=st.booleans(), flush=st.booleans())
    def evict(self, share, gone, flush):
        for key in list(self.entries)[::share]:
            self.evicted[key] = self.entries[key][:2]
            self.forget(key, gone)
            (self.gone.add if gone else self.gone.discard)(key)
        if flush:
            self.flush()

    @rule(want=st.one_of(st.none(), st.integers(0, 50_000)), dying=st.sets(KEYS, max_size=3))
    def collect(self, want, dying):
        def moved(key, old, new):
            if key not in self.entries or self.entries[key][2] != old:
                return False
            if key in dying:
                self.forget(key)
                self.log.remove([key])
                self.evicted.pop(key, None)
                return False
            self.entries[key] = *self.entries[key][:2], new
            return True

        self.log.collect(moved, want)

    @rule()
    def clear(self):
        self.log.clear()
        self.entries.clear()
        self.evicted.clear()

    @rule()
    def flush(self):
        self.log.flush()
        for key in self.gone:
            self.evicted.pop(key, None)
        self.gone.clear()

    @precondition(lambda self: self.options["persistent"])
    @rule(crash=st.booleans())
    def reopen(self, crash):
        old = {(key, *entry[:2]) for key, entry in self.entries.items()}
        if crash:
            self.log._folder.close()  # else this process itself would still have the lock
            self.log._folder = None
        else:
            self.log.close()
        self.log = Log(self.folder / "log", **self.options)
        self.entries = {}
        for location, key, meta in self.log.recover():
            assert key not in self.entries
            self.entries[key] = meta, bytes(self.log.read(location).payload), location
        new = {(key, *entry[:2]) for key, entry in self.entries.items()}
        assert old <= new
        more = {key: (meta, payload) for key, meta, payload in new - old}
        assert more.items() <= (self.evicted.items() if crash else {}.items())
        self.evicted = {key: entry for key, entry in self.evicted.items() if key not in more}
        self.gone.clear()  # the log that was told of them is no more
        if not crash:
            self.evicted.clear()
        assert self.log.stats()["damaged"] == 0

    @invariant()
    def agrees(self):
        if not hasattr(self, "log"):
            return
        for key, (meta, payload, location) in self.entries.items():
            assert self.log.read(location) == (key, meta, memoryview(payload))
        locations = [entry[2] for entry in self.entries.values()]
        assert self.log.live_bytes == sum(location.nbytes for location in locations)
        segments = self.log._segments.values()
        assert self.log.used_bytes == sum(segment.disk_bytes for segment in segments)
        live = {(s.number, offset) for s in segments for offset in s.live_offsets()}
        assert live == {(location.segment, location.offset) for location in locations}
        assert self.log._records == sum(len(s.offsets) for s in segments)
        assert self.log._notes == sum(len(s.notes) for s in segments)
        assert self.log._deaths == sum(len(s.deaths) for s in segments)
        if self.options["disk_max"]:
            assert self.log.used_bytes <= self.options["disk_max"]


LogModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck))
TestLogModel = LogModel.TestCase
