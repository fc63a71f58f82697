"""The swap file against a plain model: any sequence of operations, checked after each step."""

import errno
import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coldmem.errors import SwapFileError, UsageError
from coldmem.zswap.swapfile import SwapFile


class SwapFileModel(RuleBasedStateMachine):
    """`entries`: offset -> (length, contents or None); `free`: which granules are."""

    @initialize(unit=st.sampled_from([1024, 4096, 16384, 65536]),
                granules=st.one_of(st.integers(0, 300), st.integers(3000, 5000)),
                extra=st.integers(0, 63))
    def open(self, unit, granules, extra):
        self.granule = unit // 16
        self.file = SwapFile(granules * self.granule + extra, unit_bytes=unit)
        self.free = [True] * granules
        self.entries = {}
        self.gone = []

    def teardown(self):
        if hasattr(self, "file"):
            self.file.close()

    def fits(self, count):
        """Whether a run of `count` free granules lies inside some block of 64."""
        run = 0
        for i, free in enumerate(self.free):
            run = run + 1 if free and i % 64 else int(free)
            if run >= count:
                return True
        return False

    def take(self, n):
        count = -(-n // self.granule)
        try:
            offset = self.file.alloc(n)
        except SwapFileError as error:
            assert error.errno == errno.ENOSPC
            assert not self.fits(count)
            return None
        first = offset // self.granule
        assert offset % self.granule == 0
        assert first // 64 == (first + count - 1) // 64
        assert all(self.free[first : first + count]) and first + count <= len(self.free)
        self.free[first : first + count] = [False] * count
        self.entries[offset] = (n, None)
        return offset

    def drop(self, offset):
        n, _ = self.entries.pop(offset)
        first, count = offset // self.granule, -(-n // self.granule)
        self.free[first : first + count] = [True] * count
        self.file.free(offset, n)
        return n

    def pick(self, number):
        """One of the entries, or None."""
        return sorted(self.entries)[number % len(self.entries)] if self.entries else None

    @rule(share=st.integers(1, 4096))
    def alloc(self, share):
        self.take(max(1, share * self.granule * 16 // 4096))

    @rule(granules=st.integers(1, 16), count=st.integers(2, 100))
    def alloc_many(self, granules, count):
        for _ in range(count):
            self.take(granules * self.granule)

    @rule(number=st.integers(0, 1000))
    def free_one(self, number):
        if (offset := self.pick(number)) is not None:
            self.gone.append((offset, self.drop(offset)))

    @rule(keep_every=st.integers(2, 5))
    def free_many(self, keep_every):
        for i, offset in enumerate(sorted(self.entries)):
            if i % keep_every:
                self.drop(offset)

    @rule()
    def free_all(self):
        for offset in list(self.entries):
            self.drop(offset)

    @rule(number=st.integers(0, 1000))
    def write(self, number):
        if (offset := self.pick(number)) is not None:
            n, _ = self.entries[offset]
            data = os.urandom(n)
            self.file.write(offset, data)
            self.entries[offset] = (n, data)

    @rule()
    def free_twice(self):
        for offset, n in self.gone:
            first = offset // self.granule
            if all(self.free[first : first + -(-n // self.granule)]):
                for misuse in (self.file.free, self.file.read):
                    with pytest.raises(UsageError):
                        misuse(offset, n)

    @rule()
    def trim(self):
        before = self.file.stats()
        given = self.file.trim()
        after = self.file.stats()
        assert given % (1 << 20) == 0
        assert after["punched_bytes"] - before["punched_bytes"] == given
        assert after["used_bytes"] == before["used_bytes"]

    @rule()
    def read_all(self):
        for offset, (n, data) in self.entries.items():
            if data is not None:
                assert self.file.read(offset, n) == data

    @invariant()
    def agrees(self):
        if hasattr(self, "file"):
            self.file.check_valid()
            assert self.file.used_bytes == self.free.count(False) * self.granule
            assert self.file.stats()["size_bytes"] <= len(self.free) * self.granule


TestSwapFileModel = SwapFileModel.TestCase
TestSwapFileModel.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
