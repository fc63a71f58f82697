"""fork, and everything that is built on it: a child reads right data, or is told; never zeros."""

from __future__ import annotations

import multiprocessing
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from forks import MIB, c_fork, held_c_fork, in_child, mixed

from coldmem import Memory

Make = Callable[..., Memory]
# A process with threads that forks is warned of since Python 3.12; here that is the point.
pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")


@pytest.mark.parametrize("fork", [os.fork, c_fork])
@pytest.mark.parametrize("place", ["hot", "clean", "compressed", "disk"])
def test_a_child_reads_right_data(make_memory: Make, place: str, fork: Callable[[], int]) -> None:
    nbytes = 12 * MIB if place == "disk" else 4 * MIB
    memory = make_memory("8M" if place == "disk" else "16M", "32M")
    want = mixed(nbytes)
    a = memory.array(want)
    stats = memory.stats()
    if place == "disk":
        assert stats["swap_bytes"] > MIB // 4  # how much, is a matter of who comes first
    elif place != "hot":
        memory.evict(a)
        assert memory.stats()["hot_bytes"] == 0
        if place == "clean":
            assert np.array_equal(a, want)
            assert memory.stats()["clean_bytes"] > 0

    def job() -> None:
        assert np.array_equal(a, want)
        a[::4096] += 1
        want[::4096] += 1
        memory.evict(a)
        assert np.array_equal(a, want)
        memory.check_valid("full")

    assert in_child(job, fork) == 0
    assert np.array_equal(a, want), "what the child wrote stays in the child"
    memory.check_valid("full")
    del a


def test_neither_sees_what_the_other_writes(make_memory: Make) -> None:
    memory = make_memory("8M", "32M")
    want = mixed(10 * MIB)
    a = memory.array(want)
    there, here = os.pipe(), os.pipe()

    def job() -> None:
        a[::8192] ^= 0x0F
        os.write(here[1], b"x")
        assert os.read(there[0], 1) == b"x"  # now the parent has written, too
        want[::8192] ^= 0x0F
        assert np.array_equal(a, want)

    parent = threading.Thread(target=lambda: (
        os.read(here[0], 1), a.__setitem__(slice(1, None, 4096), 77), memory.evict(a),
        os.write(there[1], b"x"),
    ))
    parent.start()
    assert in_child(job) == 0
    parent.join()
    want[1::4096] = 77
    assert np.array_equal(a, want)
    for end in (*there, *here):
        os.close(end)
    del a


@pytest.mark.parametrize("fork", [os.fork, held_c_fork])
def test_the_parent_goes_on_while_a_child_lives(
    make_memory: Make, capfd: pytest.CaptureFixture[str], fork: Callable[[], int]
) -> None:
    """Eviction and rewriting in the parent: the child reads what was there when it was born."""
    memory = make_memory("8M", "64M")
    want = mixed(12 * MIB)
    a = memory.array(want)
    ready, go = os.pipe(), os.pipe()

    def job() -> None:
        os.write(ready[1], b"x")
        assert os.read(go[0], 1) == b"x"
        assert np.array_equal(a, want)

    def parent() -> None:
        os.read(ready[0], 1)
        for seed in range(3):  # every slot of the swap file is given up and taken again
            a[:] = mixed(12 * MIB, seed + 10)
        os.write(go[1], b"x")

    thread = threading.Thread(target=parent)
    status, said = in_child(job, fork, meanwhile=thread.start), capfd.readouterr().err
    assert (status, said) == (0, "")
    thread.join()
    assert np.array_equal(a, mixed(12 * MIB, 12))
    memory.check_valid("full")
    for end in (*ready, *go):
        os.close(end)
    del a


def test_fork_while_threads_fault(make_memory: Make) -> None:
    """Threads that fault with Python's lock held must not meet a fork that waits for it."""
    memory = make_memory("10M", "64M")
    a = memory.zeros(32 * MIB, np.uint8)
    a[::4096] = np.arange(len(a) // 4096, dtype=np.uint8)
    stop = threading.Event()
    errors: list[BaseException] = []

    def body(seed: int) -> None:
        order = random.Random(seed)
        try:
            while not stop.is_set():
                unit = order.randrange(len(a) // 4096)
                assert a[unit * 4096] == unit & 255
                other = memory.zeros(10_000)  # the lists of free runs, too
                other[:] = 1
        except BaseException as error:
            errors.append(error)

    crew = [threading.Thread(target=body, args=(seed,)) for seed in range(3)]
    for thread in crew:
        thread.start()

    def job() -> None:
        for unit in range(0, len(a) // 4096, 97):
            assert a[unit * 4096] == unit & 255
        assert memory.ones(10_000).sum() == 10_000

    try:
        for _ in range(12):
            assert in_child(job) == 0
    finally:
        stop.set()
        for thread in crew:
            thread.join()
    assert not errors
    memory.check_valid("full")
    del a


@pytest.mark.parametrize("fork", [os.fork, held_c_fork])
def test_a_child_closes_makes_and_forks_again(make_memory: Make, fork: Callable[[], int]) -> None:
    memory = make_memory("16M", "32M")
    want = mixed(8 * MIB)
    held = [memory.array(want)]
    memory.evict(held[0])

    def job() -> None:
        def grandchild() -> None:
            assert np.array_equal(held[0], want)

        assert in_child(grandchild, fork) == 0
        other = Memory("8M", 0, delivery=memory.delivery)
        b = other.ones(MIB, np.uint8)
        other.evict(b)
        assert b.sum() == MIB
        del b
        other.close()
        held.clear()
        memory.close()

    assert in_child(job, fork) == 0
    assert np.array_equal(held[0], want)
    held.clear()


def _total(array: np.ndarray) -> int:
    return int(array.sum(dtype=np.int64))


_SHARED: list[np.ndarray] = []


def _total_of_shared(low: int, high: int) -> int:
    return _total(_SHARED[0][low:high])


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(make_memory: Make, method: str) -> None:
    memory = make_memory("16M", "64M")
    want = mixed(32 * MIB)
    a = memory.array(want)
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        pieces = [slice(i * 4 * MIB, (i + 1) * 4 * MIB) for i in range(8)]
        if method == "fork":
            _SHARED.append(a)
            got = list(pool.map(_total_of_shared, [p.start for p in pieces], [p.stop for p in pieces]))
            _SHARED.clear()
        else:
            got = list(pool.map(_total, [a[p] for p in pieces]))
    assert got == [_total(want[p]) for p in pieces]
    assert np.array_equal(a, want)
    del a


def test_joblib(make_memory: Make) -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    memory = make_memory("16M", "32M")
    want = mixed(16 * MIB)
    a = memory.array(want)
    pieces = [slice(i * 4 * MIB, (i + 1) * 4 * MIB) for i in range(4)]
    with joblib.parallel_config(backend="loky", n_jobs=2):
        got = joblib.Parallel()(joblib.delayed(_total)(a[p]) for p in pieces)
    assert got == [_total(want[p]) for p in pieces]
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)
    del a


def test_subprocess(make_memory: Make) -> None:
    memory = make_memory("16M", "64M")
    want = mixed(24 * MIB)
    a = memory.array(want)
    done = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True)
    assert done.stdout == "42\n" and done.stderr == "" and done.returncode == 0
    # preexec_fn: Python code in the child, between fork and exec
    done = subprocess.run(["true"], preexec_fn=lambda: _check(a, want), capture_output=True)
    assert done.returncode == 0
    assert subprocess.run(["cat"], input=a[: 4 * MIB].tobytes(), capture_output=True).stdout == (
        want[: 4 * MIB].tobytes()
    )
    assert np.array_equal(a, want)
    del a


def _check(a: np.ndarray, want: np.ndarray) -> None:
    assert np.array_equal(a[: 4 * MIB], want[: 4 * MIB])
