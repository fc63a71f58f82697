"""What the tests of the Dask store share: stores that are closed, and caches that tests hold in hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from distributed.utils import RateLimiterFilter

from coldmem.dask import store as store_module
from coldmem.dask.store import Store

MIB = 1 << 20


def threads_of_stores() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("coldmem-dask")]


@pytest.fixture
def make_store(tmp_path: Any) -> Iterator[Callable[..., Store]]:
    """`make_store(memory_limit=...)`: closed at the end; no thread and no file may be left."""
    made: list[Store] = []

    def make(directory: Any = tmp_path / "local", **options: Any) -> Store:
        made.append(Store(directory, **options))
        return made[-1]

    RateLimiterFilter.reset_timer("coldmem.dask")
    yield make
    for held_one in HeldCache.made:
        held_one.go.set()
    HeldCache.made.clear()
    for store in made:
        store.check_valid()
        store.close()
    assert not threads_of_stores()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def settle(store: Store, timeout_s: float = 20) -> None:
    """Wait until the threads have nothing left to do."""
    tiers = store._tiers
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with tiers.lock:
            idle = not tiers.moving_bytes and not tiers.queue and not tiers.wanted
            room = time.monotonic() >= tiers.no_room_until_s
            if idle and not (tiers.over_locked() and tiers.raw and room):
                return
        time.sleep(0.002)
    raise AssertionError(f"still at work: {store.stats()}")


def push_out(store: Store) -> None:
    """Make every value that can move cold."""
    end = time.monotonic() + 20
    while store._tiers.raw or store._tiers.moving_bytes:
        if store.evict() < 0:
            time.sleep(0.002)
        assert time.monotonic() < end, store.stats()


class HeldCache:
    """A cache of which a test decides when, and whether, `set` succeeds."""

    made: list[HeldCache] = []

    def __init__(self) -> None:
        self.made.append(self)
        self.kept: dict[Any, bytes] = {}
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        self.error: BaseException | None = None
        self.sets = 0
        self.reads = self.on_disk = 0
        self.evicted: list[int] = []
        self.closed = False

    def set(self, key: Any, value: Any) -> None:
        self.sets += 1
        self.begun.release()
        assert self.go.wait(20)
        if self.error is not None:
            raise self.error
        self.kept[key] = b"".join(value)

    def set_on_disk(self, key: Any, value: Any) -> None:
        self.on_disk += 1
        self.kept[key] = b"".join(value)

    def peek(self, key: Any, default: Any = None) -> Any:
        self.reads += 1
        return memoryview(bytearray(self.kept[key])) if key in self.kept else default

    def __delitem__(self, key: Any) -> None:
        del self.kept[key]

    def evict(self, nbytes: int) -> int:
        self.evicted.append(nbytes)
        return nbytes

    def stats(self) -> dict[str, int | float]:
        used = max(0, sum(map(len, self.kept.values())) - sum(self.evicted))
        return {"memory_used_bytes": used, "stored_bytes": used, "original_bytes": used,
                "disk_used_bytes": 0, "disk_entries": 0, "ram_entries": len(self.kept)}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> HeldCache:
    """All stores of this test have this one cache."""
    cache = HeldCache()
    monkeypatch.setattr(store_module, "make_cache", lambda *_: cache)
    return cache
