"""zbud and z3fold against a dict, step by step, with all invariants checked after each step."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from coldmem.errors import DoubleFreeError, InvalidSizeError, MemoryLimitError, StaleHandleError
from coldmem.lab.backend import Backend

PAGE, CHUNK = 4096, 64
LIMIT_PAGES = 24  # soon reached
# About a third and a half of a page, the borders of what shares one, and anything.
SIZES = st.one_of(
    st.integers(1, 4096), st.integers(1000, 1400), st.integers(1900, 2100),
    st.sampled_from([1, 63, 64, 65, 1344, 1345, 2016, 2017, 3904, 3905, 3967, 3968, 3969, 4096]),
)


class BackendMachine(RuleBasedStateMachine):
    kind = ""
    handles = Bundle("handles")

    def __init__(self) -> None:
        super().__init__()
        self.pool = Backend(self.kind, limit=LIMIT_PAGES * PAGE)
        self.model: dict[int, bytes] = {}
        self.dead: set[int] = set()
        self.views: dict[int, tuple[Any, memoryview]] = {}
        self.refused = self.serial = 0

    def content(self, size: int) -> bytes:
        self.serial += 1
        return (self.serial.to_bytes(4, "little") * (size // 4 + 1))[:size]

    def pages_if_alone(self) -> int:
        """Pages that there are at least: one for each object that nothing may share a page with."""
        return sum(len(data) > PAGE - 2 * CHUNK for data in self.model.values())

    @rule(target=handles, size=SIZES)
    def store(self, size: int) -> int:
        data = self.content(size)
        if size > self.pool.object_bytes_max:
            self.refused += 1
            with pytest.raises(InvalidSizeError):
                self.pool.store(data)
            return 0
        used = self.pool.used_bytes
        try:
            handle = self.pool.store(data)
        except MemoryLimitError:
            assert used == LIMIT_PAGES * PAGE, "refused although there is room for one more page"
            return 0
        assert self.pool.used_bytes - used in (0, PAGE)
        assert handle not in self.model and handle not in self.dead
        self.model[handle] = data
        return handle

    @rule(target=handles, size=st.integers(500, 1500), count=st.integers(3, 30))
    def store_many(self, size: int, count: int) -> int:
        return [self.store(size) for _ in range(count)][-1]

    def forget(self, handle: int) -> None:
        self.pool.free(handle)
        del self.model[handle]
        self.dead.add(handle)

    @rule(handle=consumes(handles))
    def free(self, handle: int) -> None:
        if handle in self.model and handle not in self.views:
            self.forget(handle)
            with pytest.raises(DoubleFreeError):
                self.pool.free(handle)
        elif handle in self.dead:
            with pytest.raises(StaleHandleError):
                self.pool.free(handle)
            with pytest.raises(StaleHandleError):
                self.pool.read(handle)

    @rule(every=st.integers(2, 4), start=st.integers(0, 3))
    def free_every_nth(self, every: int, start: int) -> None:
        for handle in list(self.model)[start::every]:
            if handle not in self.views:
                self.forget(handle)

    @rule(handle=handles)
    def write(self, handle: int) -> None:
        if handle in self.model and handle not in self.views:
            data = self.content(len(self.model[handle]))
            self.pool.write(handle, data)
            self.model[handle] = data

    @rule(handle=handles)
    def look_for_long(self, handle: int) -> None:
        """A view that stays open while others are stored and freed: the object must stay."""
        if handle in self.model and handle not in self.views and len(self.views) < 4:
            view = self.pool.view(handle)
            self.views[handle] = view, view.__enter__()

    @rule()
    def look_away(self) -> None:
        for view, _ in self.views.values():
            view.__exit__(None, None, None)
        self.views.clear()

    @rule()
    def compact(self) -> None:
        used = self.pool.used_bytes
        freed = self.pool.compact()
        assert self.pool.used_bytes == used - freed * PAGE
        assert self.kind == "z3fold" or freed == 0
        if not self.views:
            assert self.pool.compact() == 0, "compaction left something that it could do"

    @invariant()
    def everything_agrees(self) -> None:
        self.pool.check_valid("full")
        stats = self.pool.stats()
        assert stats.objects == len(self.model) and stats.refused == self.refused
        assert stats.used_bytes == stats.pages * PAGE <= LIMIT_PAGES * PAGE
        each = 2 if self.kind == "zbud" else 3
        shared = len(self.model) - self.pages_if_alone()
        assert stats.pages >= self.pages_if_alone() + -(-shared // each)
        assert stats.pages <= len(self.model)
        assert stats.headless_pages == self.pages_if_alone()
        for handle, data in self.model.items():
            assert self.pool.read(handle) == data
        for handle, (_, seen) in self.views.items():
            assert seen == self.model[handle], "an object changed under a view"

    def teardown(self) -> None:
        self.look_away()
        for handle in list(self.model):
            self.forget(handle)
            self.pool.check_valid("full")
        assert self.pool.used_bytes == 0
        self.pool.close()


def machine(kind: str) -> Any:
    made = type(kind, (BackendMachine,), {"kind": kind})
    case = made.TestCase  # type: ignore[attr-defined]
    case.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
    return case


TestZbud = machine("zbud")
TestZ3fold = machine("z3fold")
