"""The mapping: what Dask expects of it, with values that move between the tiers."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
from conftest_dask import MIB, push_out, settle, threads_of_stores

import coldmem
from coldmem.dask.store import Store
from coldmem.errors import ClosedError, UsageError

Make = Callable[..., Store]


class Thing:
    """An object of a user's class, without weak references to it."""

    __slots__ = ("parts",)

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Thing) and self.parts == other.parts

    def __hash__(self) -> int:
        return 0


class Stubborn:
    def __init__(self, size: int) -> None:
        self.size = size

    def __sizeof__(self) -> int:
        return self.size

    def __reduce__(self) -> Any:
        raise RuntimeError("this cannot be pickled")


FRAME = pd.DataFrame({
    "n": np.arange(5000), "x": np.random.default_rng(0).random(5000),
    "word": [f"word {i % 17}" for i in range(5000)],
    "kind": pd.Categorical([("a", "b")[i % 2] for i in range(5000)]),
    "at": pd.date_range("2024-01-01", periods=5000, freq="min"),
})
FIXED = np.arange(3000)
FIXED.flags.writeable = False
VALUES = {
    "float64": np.arange(10_000.0),
    "fortran": np.asfortranarray(np.arange(10_000).reshape(100, 100)),
    "strided": np.arange(10_000)[::3],
    "read-only": FIXED,
    "empty": np.empty((0, 4)),
    "scalar": np.float32(3.5),
    "records": np.zeros(100, dtype=[("a", "i4"), ("b", "f8")]),
    "times": np.arange(100).astype("M8[s]"),
    "objects": np.array([1, "two", None], dtype=object),
    "masked": np.ma.masked_greater(np.arange(100), 50),
    "broadcast": np.broadcast_to(np.arange(10), (1000, 10)),
    "frame": FRAME,
    "series": FRAME["word"],
    "index": pd.MultiIndex.from_arrays([[1, 2], ["a", "b"]]),
    "bytes": b"some bytes" * 1000,
    "bytearray": bytearray(b"more" * 1000),
    "text": "text " * 1000,
    "none": None,
    "int": 7,
    "list": [np.arange(3000), {"a": np.ones(2000)}],
    "dict": {("k", 1): np.arange(1000), "k": 2, 3: [FRAME]},
    "tuple": (1, FRAME, "x"),
    "set": {1, 2, 3},
    "thing": Thing([1, 2, 3]),
}


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        if a.dtype != b.dtype or a.shape != b.shape:
            return False
        if isinstance(a, np.ma.MaskedArray) and not (a.mask == b.mask).all():
            return False
        return a.flags.writeable == b.flags.writeable and bool((a == b).all())
    if isinstance(a, (pd.DataFrame, pd.Series, pd.Index)):
        return bool(a.equals(b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


@pytest.mark.parametrize("name", VALUES)
def test_each_kind_of_value_comes_back_equal(make_store: Make, name: str) -> None:
    value = VALUES[name]
    store = make_store(memory_limit=64 * MIB)
    store[name] = value
    push_out(store)
    store._tiers.entries[name].weak = None  # or the value that the test holds would be found
    back = store[name]
    assert back is not value or name in ("none", "int")
    if name == "broadcast":  # 1000 rows that are one: sent as one, and not writable
        assert back.strides == value.strides and (back == value).all()
    else:
        assert same(back, value)
    assert store.stats()["entries"] == 1  # it really was in the cache


def test_arrays_come_back_writable_and_aligned(make_store: Make) -> None:
    store = make_store(memory_limit=64 * MIB)
    store["a"] = [np.arange(1000, dtype="f8"), b"x", np.arange(1001, dtype="f8")]
    push_out(store)
    one, _, two = store["a"]
    assert one.flags.aligned and two.flags.aligned
    one[0] = two[0] = 5


def test_keys_of_every_kind(make_store: Make) -> None:
    store = make_store(memory_limit=64 * MIB)
    keys = ["x", ("x", 0, 1), 5, b"x", ("nested", ("a", 2.5))]
    for number, key in enumerate(keys):
        store[key] = np.full(1000, number)
    push_out(store)
    assert list(store) == keys
    for number, key in enumerate(keys):
        assert key in store
        assert (store[key] == number).all()
    assert "y" not in store
    for missing in ("y", ("x", 0)):
        with pytest.raises(KeyError):
            store[missing]
        with pytest.raises(KeyError):
            del store[missing]
        with pytest.raises(KeyError):
            store.pop(missing)
        assert store.pop(missing, None) is None
        assert store.get(missing, 3) == 3


def test_the_contract_of_a_mapping_against_a_dict(make_store: Make) -> None:
    """2,000 random operations with a target of four values; sums and lists checked after each."""
    chance = random.Random(5)
    with dask.config.set({"distributed.worker.memory.max-spill": "2MiB"}):
        store = make_store(memory_limit=2 * MIB, threads=2)
        _operate(store, chance)


def _operate(store: Store, chance: random.Random) -> None:
    model: dict[str, np.ndarray] = {}
    keys = [f"k{i}" for i in range(24)]
    noise = np.random.default_rng(1)
    for step in range(2000):
        key = chance.choice(keys)
        what = chance.choices(
            ["set", "get", "del", "pop", "evict", "prefetch", "popitem", "update", "iterate", "clear",
             "setdefault", "settle"],
            [30, 30, 10, 5, 10, 5, 2, 3, 3, 0.3, 2, 3])[0]
        if what == "set":
            size = chance.choice([10, 1000, 40_000])
            model[key] = noise.random(size) if chance.random() < 0.3 else np.full(size, float(step))
            store[key] = model[key]
        elif what == "get" and key in model:
            assert (store[key] == model[key]).all()
        elif what == "del" and key in model:
            del store[key], model[key]
        elif what == "pop":
            a, b = store.pop(key, None), model.pop(key, None)
            assert (a is None) == (b is None)
            assert b is None or (a == b).all()
        elif what == "evict":
            store.evict()
        elif what == "prefetch":
            store.prefetch(chance.sample(keys, 3))
        elif what == "popitem" and model:
            name, value = store.popitem()
            assert (model.pop(name) == value).all()
        elif what == "update":
            new = {k: np.full(100, step) for k in chance.sample(keys, 3)}
            store.update(new)
            model.update(new)
        elif what == "iterate":
            assert set(store) == set(model) == set(store.keys())
        elif what == "clear":
            store.clear()
            model.clear()
        elif what == "setdefault":
            new_one = np.full(50, step)
            assert (store.setdefault(key, new_one) == model.setdefault(key, new_one)).all()
        elif what == "settle":
            settle(store)
        assert len(store) == len(model) and (key in store) == (key in model), (step, what)
        store.check_valid()
    assert all((store[key] == value).all() for key, value in model.items())
    for key in list(model):
        del store[key]
    settle(store)
    assert store.stats()["entries"] == 0  # no copy is left behind


def test_raw_and_compressed_stay_below_the_target(make_store: Make) -> None:
    store = make_store(memory_limit=64 * MIB)
    for i in range(100):
        store[f"k{i}"] = np.arange(i, i + MIB // 8)
    settle(store)
    stats = store.stats()
    assert 0.5 < (stats["raw_bytes"] + stats["memory_used_bytes"]) / stats["target_bytes"] <= 1.0
    assert stats["target_bytes"] == int(64 * MIB * 0.6)
    for i in range(100):
        assert store[f"k{i}"][0] == i


def test_the_least_recently_used_leaves_first(make_store: Make) -> None:
    store = make_store(memory_limit=1 << 30)
    for key in "abcd":
        store[key] = np.zeros(1000)
    store["a"]
    assert store.evict() > 0
    assert store.evict() > 0
    settle(store)
    assert list(store._tiers.raw) == ["d", "a"]


def test_a_value_still_in_use_is_not_doubled(make_store: Make) -> None:
    store = make_store(memory_limit=1 << 30)
    used = store["a"] = np.arange(1000)
    store["b"] = np.arange(1000)
    push_out(store)
    assert store["a"] is used
    assert store.cumulative_metrics.get(("decompress", "count"), 0) == 0
    assert store["b"] is store["b"]
    assert store.cumulative_metrics["decompress", "count"] == 1


def test_a_value_that_came_back_leaves_again_for_nothing(make_store: Make) -> None:
    store = make_store(memory_limit=1 << 30)
    store["a"] = np.arange(1000)
    push_out(store)
    for _ in range(3):
        assert (store["a"] == np.arange(1000)).all()
        assert store.evict() == 8000 or store.evict() > 0
        assert store.stats()["raw_bytes"] == 0  # at once
    assert store.cumulative_metrics["compress", "count"] == 1


def test_prefetch_brings_back_what_is_wanted(make_store: Make) -> None:
    store = make_store(memory_limit=1 << 30)
    store["a"], store["b"] = np.arange(1000), np.arange(2000)
    push_out(store)
    store.prefetch(["a", "missing"])
    settle(store)
    end = time.monotonic() + 10
    while not store.stats()["raw_bytes"] and time.monotonic() < end:
        time.sleep(0.002)
    assert list(store._tiers.raw) == ["a"]
    assert (store["a"] == np.arange(1000)).all()
    assert store.cumulative_metrics["read-ahead", "count"] == 1


def test_no_limit_moves_nothing_by_itself(make_store: Make) -> None:
    store = make_store(memory_limit=0)
    for i in range(50):
        store[i] = np.zeros(MIB // 8)
    settle(store)
    assert store.stats()["cold_bytes"] == 0
    assert store.evict() > 0  # but it does when it is told to


def test_limits_come_from_the_configuration(make_store: Make) -> None:
    def target(**fractions: Any) -> float:
        config = {f"distributed.worker.memory.{k}": v for k, v in fractions.items()}
        with dask.config.set(config):
            store = make_store(memory_limit="100MiB")
            store["a"] = 1
            return store.stats()["target_bytes"] / MIB

    assert target(target=0.5) == 50
    assert target(target=False, spill=0.7) == pytest.approx(70)
    assert target(target=False, spill=False) > 1 << 30


def test_what_the_dashboard_sees(make_store: Make) -> None:
    store = make_store(memory_limit=1 << 30)
    for key in "abc":
        store[key] = np.zeros(100_000)
    assert store.spilled_total == (0, 0)
    push_out(store)
    stats = store.stats()
    # Nothing is on disk; what Dask calls managed, 2.4 MB, takes only what the copies take.
    assert store.spilled_total.disk == 0 and len(store.slow) == 0
    assert store.spilled_total.memory == stats["cold_bytes"] - stats["memory_used_bytes"] > 2_000_000
    assert store.fast is True
    end = time.monotonic() + 10
    while store.stats()["ram_entries"] or store.fast:
        store.evict()
        time.sleep(0.002)
        assert time.monotonic() < end, store.stats()
    assert len(store.slow) == 3 and store.fast is False and store.evict() == -1
    assert store.spilled_total.disk > 0
    store["a"]
    metrics = store.cumulative_metrics
    assert metrics["disk-write", "count"] == 3
    assert metrics["disk-write", "bytes"] > 0 and metrics["disk-read", "bytes"] > 0
    assert metrics["compress", "count"] == 3 and metrics["decompress", "count"] == 1


def test_without_a_directory_there_is_no_disk(make_store: Make) -> None:
    store = make_store(None, memory_limit=1 << 30)
    store["a"] = np.zeros(100_000)
    push_out(store)
    assert store.fast is False and store.evict() == -1
    assert (store["a"] == 0).all()


def test_a_closed_store_says_so(make_store: Make) -> None:
    store = make_store(memory_limit=1 << 30)
    store["a"] = 1
    store.close()
    store.close()
    assert len(store) == 0 and store.evict() == -1
    with pytest.raises(ClosedError):
        store["b"] = 1


def test_a_store_that_is_dropped_leaves_no_thread(tmp_path: Path) -> None:
    store = Store(tmp_path, memory_limit=MIB)
    for i in range(20):
        store[i] = np.zeros(10_000)
    settle(store)
    assert threads_of_stores()
    del store
    gc.collect()
    assert not threads_of_stores()
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_misuse_is_refused() -> None:
    with pytest.raises(UsageError, match="threads=0"):
        Store(threads=0)


def test_a_value_that_cannot_be_serialized_stays(make_store: Make, caplog: Any) -> None:
    store = make_store(memory_limit=MIB)
    keep = store["bad"] = Stubborn(500_000)
    for i in range(20):
        store[i] = np.full(20_000, i)
    settle(store)
    for _ in range(3):
        store.evict()
    assert store["bad"] is keep
    assert all((store[i] == i).all() for i in range(20))
    settle(store)
    ours = [r for r in caplog.records if r.name == "coldmem.dask"]
    assert len(ours) == 1 and "'bad'" in ours[0].getMessage()
    del store["bad"]


def test_only_such_values_left_means_nothing_to_evict(make_store: Make) -> None:
    store = make_store(memory_limit=MIB)
    store["bad"] = Stubborn(2 * MIB)
    settle(store)
    end = time.monotonic() + 10
    while not store._tiers.stuck and time.monotonic() < end:
        time.sleep(0.002)
    assert store.fast and store.evict() == -1


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={"PYTHONPATH": str(Path(coldmem.__file__).parents[1])})


def test_importing_it_brings_nothing_along() -> None:
    done = run("import sys, coldmem.dask; print('distributed' in sys.modules, 'numpy' in sys.modules)")
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_without_distributed_the_message_says_what_to_install() -> None:
    done = run("import sys; sys.modules['distributed'] = None\n"
               "import coldmem, coldmem.dask\n"
               "try: coldmem.dask.Store\n"
               "except coldmem.MissingLibraryError as error: print(error)")
    assert "pip install 'coldmem[dask]'" in done.stdout, done.stderr


def test_a_full_disk_loses_nothing_and_work_goes_on_when_it_has_room(
    make_store: Make, mount_disk: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """16 MiB that nothing compresses, memory for 4 and a disk of 4: what finds no room stays raw."""
    store = make_store(mount_disk("4m") / "local", memory_limit=4 * MIB)
    noise = np.random.default_rng(1)
    values = {n: noise.integers(0, 256, MIB, dtype=np.uint8) for n in range(16)}
    for n, value in values.items():
        store[n] = value.copy()
    settle(store)  # nothing is on its way for good
    figures = store.stats()
    assert "No room" in caplog.text or "to disk failed" in caplog.text
    assert 0 < figures["disk_used_bytes"] <= 4 * MIB and figures["raw_bytes"] > 8 * MIB
    store.check_valid()
    assert all((store[n] == value).all() for n, value in values.items())
    for n in range(15):
        del store[n]
    store.check_valid()
    settle(store)
    store["last"] = values[3].copy()
    push_out(store)  # there is room again, after a second at most
    assert store.stats()["raw_bytes"] == 0
    assert (store[15] == values[15]).all() and (store["last"] == values[3]).all()
