"""Dicts that are packed item by item: who reads what, who has a copy, and that all copies go."""

from __future__ import annotations

import gc
import operator
import pickle
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from conftest_dask import MIB, HeldCache, push_out, settle
from dask.dataframe.backends import ShuffleGroupResult
from distributed import Client, LocalCluster
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import coldmem.dask
from coldmem.dask import Store
from coldmem.dask import store as store_module
from coldmem.dask.copies import Copies, Copy
from coldmem.dask.pieces import Items, come_apart
from coldmem.errors import ClosedError, MemoryLimitError

Make = Callable[..., Store]
pytestmark = pytest.mark.filterwarnings("ignore:Sending large graph")


class Asker:
    """Instead of a worker: whether the next reader takes one item."""

    wanted = True

    def wants_item(self, key: Any) -> bool:
        return self.wanted

    def size_of(self, key: Any) -> None:
        return None


def piece(n: int) -> np.ndarray[Any, Any]:
    return np.arange(n, n + 50_000)


def pieces(count: int = 4) -> dict[Any, Any]:
    return {n: piece(n) for n in range(count)}


@pytest.fixture
def store(make_store: Make, held: HeldCache) -> Store:
    """With a cache that makes copies at once, and readers that take one item."""
    held.go.set()
    made = make_store(memory_limit=1 << 30)
    made["first"] = 0  # now it has begun
    made._attached = Asker()  # type: ignore[assignment]
    return made


# -- the dict ------------------------------------------------------------------------------------------
def items(reads: list[int]) -> Items:
    def read(number: int) -> int:
        reads.append(number)
        return number * 10

    return Items([("a", 1), ("b", 2), ("c", 3)], read)


PLAIN = {"a": 10, "b": 20, "c": 30}


def test_one_item_is_one_read() -> None:
    reads: list[int] = []
    made = items(reads)
    assert operator.getitem(made, "b") == 20 and reads == [2]
    with pytest.raises(KeyError):
        made["d"]
    assert reads == [2]


@pytest.mark.parametrize("use", [
    dict, list, len, sorted, repr, lambda d: d == PLAIN, lambda d: d != PLAIN,
    lambda d: "a" in d, lambda d: "d" in d, lambda d: d.get("c"), lambda d: d.get("d", 4),
    lambda d: list(d.items()), lambda d: list(d.values()), lambda d: list(d.keys()),
    lambda d: list(reversed(d)), lambda d: d | {"d": 4}, lambda d: {"d": 4} | d, lambda d: {**d},
    lambda d: (lambda **kw: kw)(**d), lambda d: d.copy(), lambda d: pickle.loads(pickle.dumps(d)),
    lambda d: pickle.loads(pickle.dumps(d, 2)), lambda d: (d.pop("a"), dict(d)),
    lambda d: (d.popitem(), dict(d)), lambda d: (d.setdefault("e", 5), dict(d)),
    lambda d: (d.update(b=0), d["a"], d["b"]), lambda d: (d.__setitem__("b", 7), d["a"], dict(d)),
    lambda d: (d.__delitem__("b"), dict(d)), lambda d: (d.clear(), dict(d)), bool,
    lambda d: isinstance(d, dict), lambda d: d.__ior__({"a": 1}) == {**PLAIN, "a": 1},
])
def test_used_in_any_other_way_it_is_the_dict(use: Callable[[Any], Any]) -> None:
    assert use(items([])) == use(dict(PLAIN))


def test_elsewhere_it_is_of_the_kind_that_was_packed() -> None:
    made = Items([("a", 1)], lambda number: number, ShuffleGroupResult)
    assert type(pickle.loads(pickle.dumps(made))) is ShuffleGroupResult
    assert type(pickle.loads(pickle.dumps(items([])))) is dict


def test_what_comes_apart() -> None:
    class Other(dict[Any, Any]):
        pass

    assert come_apart(pieces(), 2 * MIB) and come_apart(ShuffleGroupResult(pieces()), 2 * MIB)
    assert not come_apart(Other(pieces()), 2 * MIB)
    assert not come_apart({n: n for n in range(1000)}, 2 * MIB)  # many small ones
    assert not come_apart(pieces(), 1000) and not come_apart({0: piece(0)}, 2 * MIB)
    assert not come_apart(np.zeros(1 << 20), 8 * MIB)


# -- the store -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", [dict, ShuffleGroupResult])
def test_a_dict_comes_back_whole(store: Store, held: HeldCache, kind: type[dict[Any, Any]]) -> None:
    store["d"] = kind(pieces())
    push_out(store)
    assert held.sets == 4 + 1
    store._attached.wanted = False  # type: ignore[union-attr]
    back = store["d"]
    assert type(back) is kind and list(back) == [0, 1, 2, 3]
    assert all((back[n] == piece(n)).all() for n in back)
    assert store["d"] is back  # and is raw again
    del store["d"], store["first"]
    assert not held.kept


def test_a_task_that_takes_one_item_reads_one(store: Store, held: HeldCache) -> None:
    store["d"] = pieces()
    push_out(store)
    taken = operator.getitem(store["d"], 2)
    assert (taken == piece(2)).all() and held.reads == 1
    assert store.stats()["cold_bytes"] > 0  # the dict is no warmer for it
    store._attached.wanted = False  # type: ignore[union-attr]
    store.prefetch(["d"], item=True)
    settle(store)
    assert held.reads == 1


def test_what_was_taken_has_its_copy_already(store: Store, held: HeldCache) -> None:
    store["d"] = pieces()
    push_out(store)
    store["p"] = store["d"][2]
    sets, kept = held.sets, len(held.kept)
    push_out(store)
    assert held.sets == sets and len(held.kept) == kept
    del store["d"]
    assert len(held.kept) == 1 + 1  # what p needs, and "first"
    assert (store["p"] == piece(2)).all()
    del store["p"]
    assert len(held.kept) == 1


def test_taken_before_the_dict_was_packed(store: Store, held: HeldCache) -> None:
    """Both are raw when the dict leaves: its items and what was taken out are the same objects."""
    push_out(store)
    assert held.begun.acquire(timeout=20)  # that was "first"
    held.go.clear()
    whole = store["d"] = pieces()
    assert store.evict() > 0
    assert held.begun.acquire(timeout=20)
    store["p"] = whole[1]
    held.go.set()
    settle(store)
    sets = held.sets
    store["q"] = whole[3]  # after it
    push_out(store)
    assert held.sets == sets
    del whole, store["d"]
    assert (store["p"] == piece(1)).all() and (store["q"] == piece(3)).all()
    del store["p"], store["q"], store["first"]
    assert not held.kept


def test_a_piece_that_nobody_puts_lets_its_copy_go(store: Store, held: HeldCache) -> None:
    store["d"] = pieces()
    push_out(store)
    lazy = store["d"]
    taken = lazy[0]
    del store["d"]
    assert len(held.kept) == 4 + 1  # lazy may be asked for any
    assert (lazy[3] == piece(3)).all()
    gone = weakref.ref(lazy)
    del lazy
    assert gone() is None
    store["other"] = 1  # whoever comes next sweeps
    assert len(held.kept) == 1 + 1
    del taken
    store["other"] = 2
    assert len(held.kept) == 1


def test_no_room_for_one_piece_leaves_none(store: Store, held: HeldCache) -> None:
    push_out(store)
    store["d"] = pieces()
    plain, count = held.set, [0]

    def third_fails(key: Any, value: Any) -> None:
        count[0] += 1
        if count[0] >= 3:
            raise MemoryLimitError("full")
        plain(key, value)

    held.set = third_fails  # type: ignore[method-assign]
    store.evict()
    settle(store)
    assert count[0] == 3 and len(held.kept) == 1
    assert store["d"].keys() == {0, 1, 2, 3} and list(store._tiers.raw) == ["d"]


def test_an_item_of_a_closed_store_says_so(store: Store) -> None:
    store["d"] = pieces()
    push_out(store)
    lazy = store["d"]
    store.close()
    with pytest.raises(ClosedError, match="its worker has ended"):
        lazy[0]


@pytest.mark.tsan
def test_many_threads_take_items_while_keys_come_and_go(make_store: Make, stress_seconds: float) -> None:
    store = make_store(memory_limit=24 * MIB, threads=2)
    store["first"] = 0
    store._attached = Asker()  # type: ignore[assignment]
    end = time.monotonic() + stress_seconds
    wrong: list[Any] = []

    def work(me: int) -> None:
        rng = np.random.default_rng(me)
        while time.monotonic() < end and not wrong:
            base = int(rng.integers(1000))
            store["d", me] = {n: piece(base + n) for n in range(4)}
            for _ in range(6):
                n = int(rng.integers(4))
                if rng.random() < 0.5:
                    store.evict()
                taken = operator.getitem(store["d", me], n)
                store["p", me, n] = taken
                if not (store["p", me, n] == piece(base + n)).all():
                    wrong.append((me, n))
            del store["d", me]
            for n in range(4):
                if ("p", me, n) in store:
                    if not (store["p", me, n] == piece(base + n)).all():
                        wrong.append((me, n))
                    del store["p", me, n]

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    settle(store)
    del store["first"]
    store.check_valid()
    mover = store._mover
    assert mover is not None
    end = time.monotonic() + 20
    cache: Any = mover.cache
    while store._tiers.copies._users or (cache is not None and len(cache)):
        assert time.monotonic() < end, "copies that nobody needs stay"
        gc.collect()
        mover.sweep()  # a thread may have been at a value when its key went
        time.sleep(0.01)


# -- a cluster -----------------------------------------------------------------------------------------
def test_a_shuffle_reads_items(tmp_path: Path) -> None:
    """A shuffle of four times the memory, by tasks, in two stages."""
    import dask.dataframe as dd

    quiet = {"dataframe.shuffle.method": "tasks", "distributed.worker.memory.spill": False,
             "distributed.worker.memory.pause": False, "distributed.worker.memory.terminate": False}
    rng = np.random.default_rng(1)
    data = pd.DataFrame({"key": rng.integers(0, 10_000, 1_000_000), **{
        name: np.arange(1_000_000) // 7 for name in "abcdef"}})
    with dask.config.set(quiet), LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, memory_limit=16 * MIB, silence_logs=40,
        worker_class=coldmem.dask.Worker, dashboard_address=":0", local_directory=str(tmp_path),
    ) as cluster, Client(cluster) as client:
        taken = [0]

        def counted(store: Store, key: Any, entry: Any, plain: Any = Store._items) -> Items | None:
            found: Items | None = plain(store, key, entry)
            taken[0] += found is not None
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Store, "_items", counted)
            frame = dd.from_pandas(data, npartitions=12)
            found = frame.shuffle("key", max_branch=4).groupby("key")["a"].sum().compute().sort_index()
        pd.testing.assert_series_equal(found, data.groupby("key")["a"].sum().sort_index())
        assert taken[0] > 0
        for worker in cluster.workers.values():
            worker.data.check_valid()
        del client


def kind_of(value: Any) -> str:
    return type(value).__name__


def test_only_a_task_that_takes_one_item_gets_less_than_the_dict(tmp_path: Path) -> None:
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, memory_limit="1GiB", silence_logs=40,
        worker_class=coldmem.dask.Worker, dashboard_address=":0", local_directory=str(tmp_path),
    ) as cluster, Client(cluster) as client:
        store = cluster.workers[0].data
        held = client.submit(pieces, key="held")
        held.result()
        push_out(store)
        assert client.submit(kind_of, held).result() == "dict"
        push_out(store)
        assert (client.submit(operator.getitem, held, 2).result() == piece(2)).all()
        assert store._tiers.entries["held"].value is store_module.NOTHING  # it did not come back
        assert list(held.result()) == [0, 1, 2, 3]


# -- the copies ----------------------------------------------------------------------------------------
class _Value:
    """What can be referred to weakly."""


class _Box:
    """The only one that holds a value, as far as Hypothesis knows."""

    def __init__(self, value: _Value, number: int) -> None:
        self.value: _Value | None = value
        self.number = number


class CopiesMachine(RuleBasedStateMachine):
    """`Copies` against sets of users."""

    held: Bundle[Copy] = Bundle("held")
    leased: Bundle[_Box] = Bundle("leased")

    def __init__(self) -> None:
        super().__init__()
        self.copies = Copies()
        self.users: dict[int, int] = {}
        self.ever: set[int] = set()
        self.deleted: list[int] = []

    @rule(target=held, count=st.integers(0, 3))
    def new(self, count: int) -> Copy:
        made = self.copies.new(tuple(range(count)) if count else None)
        assert len(made.numbers) == max(count, 1) and not self.ever & set(made.numbers)
        self.ever.update(made.numbers)
        self.users.update(dict.fromkeys(made.numbers, 1))
        return made

    @rule(copy=consumes(held))
    def give_up(self, copy: Copy) -> None:
        self.copies.give_up(copy)
        for number in copy.numbers:
            self.users[number] -= 1

    @rule(target=leased, copy=held, which=st.integers(0, 2))
    def lease(self, copy: Copy, which: int) -> _Box:
        value, number = _Value(), copy.numbers[which % len(copy.numbers)]
        self.copies.lease(value, Copy((number,)))
        self.users[number] += 1
        return _Box(value, number)

    @rule(target=held, box=leased)
    def claim(self, box: _Box) -> Any:
        found = self.copies.claim(box.value)
        assert found is None or found.numbers == (box.number,)
        return found or self.new(0)

    @rule(box=consumes(leased))
    def let_go(self, box: _Box) -> None:
        lease = self.copies._leases.get(id(box.value))
        if lease is not None and lease() is box.value:  # else somebody claimed it
            self.users[box.number] -= 1
        box.value = None

    @rule()
    def collect(self) -> None:
        self.deleted += self.copies.collect()
        assert self.copies._users == {number: users for number, users in self.users.items() if users}

    @invariant()
    def nothing_is_deleted_too_early_or_twice(self) -> None:
        assert len(set(self.deleted)) == len(self.deleted)
        assert not [number for number in self.deleted if self.users[number] > 0]


TestCopies = CopiesMachine.TestCase
TestCopies.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
