"""What happens while a value is on its way, and when it finds no room: with a cache held in hand."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest_dask import MIB, HeldCache, push_out, settle

from coldmem.dask.store import Store
from coldmem.errors import MemoryLimitError

Make = Callable[..., Store]
pytestmark = pytest.mark.usefixtures("held")


def begun(held: HeldCache) -> None:
    """Wait until a thread is compressing."""
    assert held.begun.acquire(timeout=20)


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_evict_returns_the_size_at_once_and_the_value_stays_readable(
    make_store: Make, held: HeldCache
) -> None:
    store = make_store(memory_limit=1 << 30)
    value = store["a"] = np.zeros(1000)
    assert store.evict() == 8000 + 128 or store.evict() == -1
    begun(held)
    assert "a" in store and list(store) == ["a"] and store.fast
    assert store["a"] is value  # taken back while the thread is at it
    assert store.evict() > 0  # and sent away again: the same work counts
    held.go.set()
    settle(store)
    assert store.stats()["cold_bytes"] > 0 and held.sets == 1


def test_reading_it_cancels(make_store: Make, held: HeldCache) -> None:
    store = make_store(memory_limit=1 << 30)
    store["a"], store["b"] = np.zeros(1000), np.ones(1000)
    store.evict(), store.evict()
    begun(held)  # a; b waits
    value = store["b"]
    assert (value == 1).all()
    held.go.set()
    settle(store)
    assert held.sets == 1 and list(store._tiers.raw) == ["b"]


def test_one_that_was_read_while_compressed_keeps_the_copy(make_store: Make, held: HeldCache) -> None:
    store = make_store(memory_limit=1 << 30)
    value = store["a"] = np.zeros(1000)
    store.evict()
    begun(held)
    assert store["a"] is value
    held.go.set()
    until(lambda: store._tiers.entries["a"].copy)
    assert list(store._tiers.raw) == ["a"]
    assert store.evict() > 0 and store.stats()["cold_bytes"] > 0  # free of charge
    assert held.sets == 1


@pytest.mark.parametrize("replace", [False, True])
def test_deleting_or_replacing_it_cancels(make_store: Make, held: HeldCache, replace: bool) -> None:
    store = make_store(memory_limit=1 << 30)
    store["a"] = np.zeros(1000)
    store.evict()
    begun(held)
    entry = store._tiers.entries["a"]
    if replace:
        store["a"] = np.ones(1000)
    else:
        del store["a"]
        assert "a" not in store and len(store) == 0
    held.go.set()
    until(lambda: not entry.busy)
    until(lambda: not held.kept)
    settle(store)
    assert not replace or (store["a"] == 1).all()


def test_a_deleted_value_in_the_queue_is_freed_at_once(make_store: Make, held: HeldCache) -> None:
    store = make_store(memory_limit=1 << 30)
    store["a"], value = np.zeros(1000), np.ones(1000)
    store["b"] = value
    store.evict(), store.evict()
    begun(held)
    gone = weakref.ref(value)
    del value, store["b"]
    gc.collect()
    assert gone() is None


def test_a_value_is_freed_when_its_copy_is_there(make_store: Make, held: HeldCache) -> None:
    store = make_store(memory_limit=1 << 30)
    value = np.zeros(1000)
    gone = weakref.ref(value)
    store["a"] = value
    del value
    store.evict()
    begun(held)
    assert gone() is not None
    held.go.set()
    until(lambda: gone() is None)


def test_evict_refuses_when_enough_is_on_its_way(make_store: Make, held: HeldCache) -> None:
    """Dask calls it in a loop until the process has shrunk, which takes the threads a while."""
    store = make_store(memory_limit=160 * MIB)  # target 96 MiB, a quarter of it 24 MiB
    for i in range(10):
        store[i] = np.zeros(MIB)
    assert [store.evict() > 0 for _ in range(5)] == [True, True, True, False, False]
    assert store.fast
    held.go.set()
    settle(store)
    assert store.evict() > 0


def test_evict_never_raises(make_store: Make, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    store = make_store(memory_limit=160 * MIB)
    store["a"] = 1

    def fail() -> int:
        raise RuntimeError("planted")

    monkeypatch.setattr(store._tiers, "demote_locked", fail)
    assert store.evict() == -1
    assert "planted" in caplog.text
    assert store["a"] == 1


@pytest.mark.parametrize("error", [MemoryLimitError("full"), OSError(28, "No space left on device")])
def test_without_room_the_value_stays_raw(
    make_store: Make, held: HeldCache, caplog: Any, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr("coldmem.dask.mover._NO_ROOM_S", 0.1)
    store = make_store(memory_limit=1 << 30)
    value = store["a"] = np.zeros(1000)
    held.error = error
    held.go.set()
    store.evict()
    until(lambda: store._tiers.raw)
    assert store.evict() == -1 and store.fast  # Dask's pause and terminate are next
    assert store["a"] is value
    held.error = None
    until(lambda: store.evict() > 0)
    settle(store)
    assert store.stats()["cold_bytes"] > 0


def test_copies_of_raw_values_make_room_for_others(make_store: Make, held: HeldCache) -> None:
    store = make_store(memory_limit=1 << 30)
    held.go.set()
    store["a"] = np.zeros(1000)
    push_out(store)
    store["a"]
    assert len(held.kept) == 1
    full = held.set

    def set_when_empty(key: Any, value: Any) -> None:
        if held.kept:
            raise MemoryLimitError("full")
        full(key, value)

    held.set = set_when_empty  # type: ignore[method-assign]
    store["b"] = np.ones(1000)
    store["a"]
    assert store.evict() > 0  # b
    settle(store)
    assert list(store._tiers.raw) == ["a"] and store._tiers.entries["a"].copy is None
    assert (store["b"] == 1).all()


def test_an_error_of_our_own_loses_nothing(make_store: Make, held: HeldCache, caplog: Any) -> None:
    store = make_store(memory_limit=1 << 30)
    value = store["a"] = np.zeros(1000)
    held.error = RuntimeError("planted")
    held.go.set()
    store.evict()
    until(lambda: store._tiers.stuck)
    assert store["a"] is value
    assert "planted" in caplog.text


def test_a_put_waits_a_while_for_the_threads(
    make_store: Make, held: HeldCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coldmem.dask.store._HOLD_S", 0.05)
    store = make_store(memory_limit=10 * MIB)
    for i in range(6):
        store[i] = np.zeros(MIB // 8)
    assert ("store-wait", "count") not in store.cumulative_metrics
    store[6] = np.zeros(MIB // 8)  # 7 MiB of 6.5
    assert store.cumulative_metrics["store-wait", "count"] == 1
    monkeypatch.setattr("coldmem.dask.store._HOLD_S", 20.0)
    threading.Timer(0.05, held.go.set).start()
    monkeypatch.setattr(HeldCache, "stats", lambda self: {
        "memory_used_bytes": 0, "stored_bytes": 0, "original_bytes": 0,
        "disk_used_bytes": 0, "ram_entries": 0})
    store[7] = np.zeros(MIB // 8)  # goes on when they have caught up
    assert store.cumulative_metrics["store-wait", "seconds"] < 15


def test_a_put_that_waits_goes_on_when_values_go_for_nothing(
    make_store: Make, held: HeldCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those with a copy are dropped without any work, and the one who waits must hear of it."""
    monkeypatch.setattr("coldmem.dask.store._HOLD_S", 20.0)
    monkeypatch.setattr(HeldCache, "stats", lambda self: {
        "memory_used_bytes": 0, "stored_bytes": 0, "original_bytes": 0,
        "disk_used_bytes": 0, "ram_entries": 0})
    held.go.set()
    store = make_store(memory_limit=10 * MIB)
    for i in range(5):
        store[i] = np.zeros(MIB // 8)
    push_out(store)
    for i in range(5):
        store[i]
    store["large"] = np.zeros(MIB // 2)
    assert store.cumulative_metrics["store-wait", "seconds"] < 15


def test_a_large_compressed_part_goes_to_disk(make_store: Make, held: HeldCache) -> None:
    """What does not shrink (the held cache stores as it is) may take a twentieth of the target."""
    held.go.set()
    store = make_store(memory_limit=100 * MIB)
    for i in range(80):
        store[i] = np.zeros(MIB // 8)
    until(lambda: held.evicted)
    assert all(n <= 32 * MIB for n in held.evicted)
    assert max(held.evicted) >= 10 * MIB


def test_close_waits_for_a_thread_at_work(make_store: Make, held: HeldCache) -> None:
    store = make_store(memory_limit=1 << 30)
    store["a"] = np.zeros(1000)
    store.evict()
    begun(held)
    threading.Timer(0.05, held.go.set).start()
    store.close()
    assert held.closed and not store._moving._threads[0].is_alive()


def test_one_object_under_several_keys_is_one_value(make_store: Make, held: HeldCache) -> None:
    """As the values of a persisted collection are, whenever something is computed from it."""
    store = make_store(memory_limit=1 << 30)
    held.go.set()
    value = np.arange(100_000)
    store["a"] = store["b"] = value
    store["c"] = np.arange(100_000)  # equal, but another
    assert store.stats()["raw_bytes"] < 2.1 * value.nbytes and len(store) == 3
    store.check_valid()
    push_out(store)
    assert held.sets == 2 and sorted(store) == ["a", "b", "c"]
    assert store["b"] is value  # somebody has it still
    store["d"] = value
    del value, store["a"]
    assert (store["b"] == np.arange(100_000)).all() and store["d"] is store["b"]
    store.check_valid()
    push_out(store)
    del store["b"]
    assert (store["d"] == np.arange(100_000)).all() and "b" not in store and held.reads == 1
    store["d"] = np.ones(100_000)
    assert len(held.kept) == 1 and (store["c"] == np.arange(100_000)).all()
    del store["d"], store["c"]
    assert not store._tiers._by_identity and not held.kept and store.stats()["raw_bytes"] == 0


def test_the_address_of_an_object_that_is_gone_means_nothing(make_store: Make, held: HeldCache) -> None:
    store = make_store(memory_limit=1 << 30)
    held.go.set()
    for i in range(50):  # arrays of one size get the same addresses again and again
        store[i] = np.full(20_000, i)
        push_out(store)
    assert all((store[i] == i).all() for i in range(50))


def test_who_needs_a_value_that_is_being_brought_back_waits_for_it(
    make_store: Make, held: HeldCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(memory_limit=1 << 30)
    held.go.set()
    store["a"] = np.arange(1000)
    push_out(store)
    store._tiers.entries["a"].weak = None
    reading, go_on = threading.Event(), threading.Event()
    peek = held.peek

    def slow(key: Any, default: Any = None) -> Any:
        reading.set()
        assert go_on.wait(20)
        return peek(key, default)

    monkeypatch.setattr(held, "peek", slow)
    store.prefetch(["a"])
    assert reading.wait(20)
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.append(store["a"]))
    reader.start()
    reader.join(0.05)
    assert not got  # it waits
    go_on.set()
    reader.join(20)
    assert (got[0] == np.arange(1000)).all() and held.reads == 1
    settle(store)


def test_what_the_process_holds_beside_counts(make_store: Make, held: HeldCache) -> None:
    """A worker ends at its limit whatever takes the memory, so the values give way."""
    store = make_store(memory_limit=100 * MIB)
    held.go.set()
    values = [np.zeros(MIB // 4) for _ in range(20)]  # 40 MiB, of 60 that they may have
    for i, value in enumerate(values):
        store[i] = value
    settle(store)
    assert store.stats()["cold_bytes"] == 0
    assert store._mover is not None
    store._mover._process_bytes = lambda: 90 * MIB  # so 50 and more are something else
    store._mover._looked_s = 0.0
    store["more"] = np.zeros(MIB // 4)
    until(lambda: store.stats()["raw_bytes"] <= 22 * MIB)
    stats = store.stats()
    assert stats["target_bytes"] == 60 * MIB and stats["target_now_bytes"] < 25 * MIB


@pytest.mark.parametrize("disk", [True, False])
def test_what_does_not_compress_goes_to_disk_at_once(
    make_store: Make, held: HeldCache, disk: bool
) -> None:
    store = make_store(memory_limit=1 << 30) if disk else make_store(None, memory_limit=1 << 30)
    held.go.set()
    chance = np.random.default_rng(1)
    store["noise"] = chance.integers(0, 255, MIB, dtype="u1")
    store["counts"] = np.arange(MIB // 8)
    store["short noise"] = chance.integers(0, 255, 1000, dtype="u1")
    push_out(store)
    assert held.on_disk == (1 if disk else 0) and held.sets == (2 if disk else 3)
    assert (store["counts"] == np.arange(MIB // 8)).all() and len(store["noise"]) == MIB
