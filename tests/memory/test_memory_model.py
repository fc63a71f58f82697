"""Managed arrays against plain NumPy copies: any order of calls, invariants checked after each."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from coldmem import Memory

MIB = 1 << 20
LIMIT = 8 * MIB
PINNED_MOST = MIB

arrays = st.integers(0, 1 << 30)
parts = st.tuples(st.floats(0, 1), st.floats(0, 1))


class Pair:
    """An array and what must be in it."""

    def __init__(self, real: np.ndarray, model: np.ndarray) -> None:
        self.real, self.model = real, model

    def part(self, ends: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
        low, high = sorted(int(end * len(self.model)) for end in ends)
        return self.real[low:high], self.model[low:high]

    def drop(self) -> None:
        """Hypothesis may know this pair for a while yet: the array must go now."""
        self.real = self.model = np.zeros(0, np.uint8)


def touches(seed: int, n: int) -> np.ndarray:
    """Some hundred places; half of them in a row, half anywhere."""
    rng = np.random.default_rng(seed)
    start = int(rng.integers(0, n))
    step = int(rng.choice([1, 511, 4096, 20000]))
    row = np.arange(start, min(n, start + 150 * step), step)
    return np.concatenate([row, rng.integers(0, n, 150)])


def machine(delivery: str, unit: str) -> type[RuleBasedStateMachine]:
    """The state machine for one way of delivery and one unit."""

    class Machine(RuleBasedStateMachine):
        pairs: Bundle[Pair] = Bundle("pairs")

        def __init__(self) -> None:
            super().__init__()
            self.memory = Memory(LIMIT, "96M", delivery=delivery, unit_bytes=unit)
            self.pins: list[contextlib.ExitStack] = []
            self.all: list[Pair] = []
            self.live = 0

        def made(self, pair: Pair) -> Pair:
            self.all.append(pair)
            self.live += len(pair.model)
            return pair

        def teardown(self) -> None:
            while self.pins:
                self.pins.pop().close()
            for pair in self.all:
                assert np.array_equal(pair.real, pair.model)
                pair.drop()
            self.memory.check_valid("full")
            stats = self.memory.stats()
            assert stats["arrays"] == stats["hot_bytes"] == stats["swap_bytes"] == 0
            self.memory.close()

        # -- arrays come and go ------------------------------------------------------------------
        @rule(target=pairs, units=st.integers(1, 4 * MIB // 4096), tail=st.integers(-4095, 0))
        def make_zeros(self, units: int, tail: int) -> Any:
            nbytes = units * 4096 + tail
            if self.live + nbytes > 40 * MIB:
                return multiple()
            return self.made(Pair(self.memory.zeros(nbytes, np.uint8), np.zeros(nbytes, np.uint8)))

        @rule(target=pairs, nbytes=st.integers(1, 3 * MIB), seed=arrays)
        def make_noise(self, nbytes: int, seed: int) -> Any:
            if self.live + nbytes > 40 * MIB:
                return multiple()
            model = np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)
            model[::2] = 7
            return self.made(Pair(self.memory.array(model), model))

        @rule(pair=consumes(pairs))
        def free(self, pair: Pair) -> None:
            self.live -= len(pair.model)
            assert np.array_equal(pair.real, pair.model)
            self.all.remove(pair)
            pair.drop()

        # -- reading and writing -----------------------------------------------------------------
        @rule(pair=pairs, seed=arrays)
        def read(self, pair: Pair, seed: int) -> None:
            at = touches(seed, len(pair.model))
            assert np.array_equal(pair.real[at], pair.model[at])

        @rule(pair=pairs, seed=arrays, value=st.integers(0, 255))
        def write(self, pair: Pair, seed: int, value: int) -> None:
            at = touches(seed, len(pair.model))
            pair.real[at] = value
            pair.model[at] = value

        @rule(pair=pairs, seed=arrays)
        def read_then_write(self, pair: Pair, seed: int) -> None:
            for place in touches(seed, len(pair.model))[::4]:
                pair.real[place] ^= 0x55
                pair.model[place] ^= 0x55

        @rule(pair=pairs, ends=parts, value=st.integers(0, 255))
        def fill(self, pair: Pair, ends: tuple[float, float], value: int) -> None:
            real, model = pair.part(ends)
            real[:] = value
            model[:] = value

        @rule(pair=pairs, ends=parts)
        def compare(self, pair: Pair, ends: tuple[float, float]) -> None:
            real, model = pair.part(ends)
            assert np.array_equal(real, model)
            assert np.array_equal(real[::-1], model[::-1])

        @rule(one=pairs, other=pairs)
        def copy(self, one: Pair, other: Pair) -> None:
            n = min(len(one.model), len(other.model))
            one.real[:n] = other.real[len(other.model) - n :]
            one.model[:n] = other.model[len(other.model) - n :]

        # -- hints and requests ------------------------------------------------------------------
        @rule(pair=pairs, ends=parts)
        def evict(self, pair: Pair, ends: tuple[float, float]) -> None:
            self.memory.evict(pair.part(ends)[0])

        @rule(pair=pairs, ends=parts)
        def prefetch(self, pair: Pair, ends: tuple[float, float]) -> None:
            self.memory.prefetch(pair.part(ends)[0])

        @rule(pair=pairs, ends=parts, advice=st.sampled_from(["normal", "sequential", "random"]))
        def advise(self, pair: Pair, ends: tuple[float, float], advice: str) -> None:
            self.memory.madvise(pair.part(ends)[0], advice)

        @precondition(lambda self: not self.pins)  # what becomes of pinned units is tested elsewhere
        @rule(pair=pairs, ends=parts)
        def forget(self, pair: Pair, ends: tuple[float, float]) -> None:
            real, _ = pair.part(ends)
            self.memory.madvise(real, "dontneed")
            unit = self.memory.stats()["unit_bytes"]
            low = -(-(real.ctypes.data - pair.real.ctypes.data) // unit) * unit
            high = (real.ctypes.data - pair.real.ctypes.data + len(real)) // unit * unit
            pair.model[low:max(low, high)] = 0

        @precondition(lambda self: len(self.pins) < 4)
        @rule(pair=pairs, ends=parts)
        def pin(self, pair: Pair, ends: tuple[float, float]) -> None:
            real, _ = pair.part(ends)
            real = real[:PINNED_MOST]
            stack = contextlib.ExitStack()
            stack.enter_context(self.memory.pinned(real))
            self.pins.append(stack)
            assert self.memory.evict(real) == 0

        @precondition(lambda self: self.pins)
        @rule()
        def unpin(self) -> None:
            self.pins.pop(0).close()

        # -- what holds at any time --------------------------------------------------------------
        @invariant()
        def valid(self) -> None:
            self.memory.check_valid("full")
            stats = self.memory.stats()
            assert stats["failed"] == 0
            assert stats["footprint_peak_bytes"] <= LIMIT or stats["overshoots"]

    return Machine


@pytest.mark.parametrize("unit", ["4K", "16K", "64K"])
def test_model(delivery: str, unit: str) -> None:
    run_state_machine_as_test(machine(delivery, unit), settings=settings(
        max_examples=10, stateful_step_count=40, deadline=None, print_blob=True,
        suppress_health_check=list(HealthCheck),
    ))
