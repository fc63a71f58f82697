"""NumPy's default allocator replaced for a whole process: every thread and context allocates there."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import coldmem
from coldmem.errors import UsageError
from coldmem.linux.userfaultfd import rights_here
from coldmem.memory.whole import Settings

pytestmark = pytest.mark.skipif(
    rights_here() == "none", reason="no userfaultfd here: see `coldmem doctor`"
)
SRC = str(Path(coldmem.__file__).parents[1])
HEAD = """
import sys
from coldmem.memory.whole import Settings, WholeProgram
whole = WholeProgram(Settings(memory_max="16M", swap_max="64M"))
"""


def good(body: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(body)], capture_output=True, text=True,
        timeout=100, env={**os.environ, "PYTHONPATH": SRC},
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_memory_is_made_when_numpy_is_imported() -> None:
    good("""
        whole.arm()
        assert whole.memory is None and whole.stats() is None and "numpy" not in sys.modules
        import numpy as np
        assert whole.memory is not None
        assert "exec_module" not in vars(np.__loader__) and np.__spec__.loader is np.__loader__
        assert not any(type(f).__module__.startswith("coldmem") for f in sys.meta_path)
        a = np.ones(1 << 20)
        assert whole.memory.owns(a) and not whole.memory.owns(np.ones(10))
    """)


def test_numpy_that_is_there_already() -> None:
    good("""
        import numpy as np
        old = np.ones(1 << 20)
        whole.arm()
        assert not whole.memory.owns(old)
        new = old + 1
        assert whole.memory.owns(new) and float(new.sum()) == 2 << 20
        old.resize(1 << 21)
        assert whole.memory.owns(old) and old[: 1 << 20].all() and not old[1 << 20 :].any()
        old.resize(4)
        assert not whole.memory.owns(old) and old.tolist() == [1, 1, 1, 1]
        del old, new
        assert whole.memory.stats()["array_bytes"] == 0
    """)


def test_threads_that_python_does_not_know_and_empty_contexts() -> None:
    good("""
        import _thread, asyncio, contextvars, threading, time
        from concurrent.futures import ThreadPoolExecutor
        early = ThreadPoolExecutor(1)
        early.submit(int).result()
        whole.arm()
        import numpy as np
        def owned():
            return whole.memory.owns(np.zeros(1 << 20))
        assert owned() and early.submit(owned).result()
        assert contextvars.Context().run(owned)
        assert asyncio.run(asyncio.to_thread(owned))
        got = []
        _thread.start_new_thread(lambda: got.append(owned()), ())
        while not got:
            time.sleep(0.01)
        assert got == [True]
        early.shutdown()
    """)


def test_an_inner_memory_takes_over_for_its_block() -> None:
    good("""
        whole.arm()
        import numpy as np, coldmem
        with coldmem.Memory("16M", "16M") as inner:
            a = np.zeros(1 << 20)
            assert inner.owns(a) and not whole.memory.owns(a)
            small = np.arange(1000)
        b = np.zeros(1 << 20)
        assert whole.memory.owns(b) and not inner.owns(b)
        c = small * 2
        del a, small
        inner.close()
    """)


def test_what_went_through_is_counted() -> None:
    good("""
        whole.arm()
        import numpy as np
        for _ in range(3):
            a = np.zeros(1 << 20); del a
        keep = np.zeros(1 << 19), np.zeros(1 << 18)
        try:
            np.zeros(1 << 30)
        except MemoryError as error:
            said = whole.advice(error)
        found = whole.stats()
        assert found["arrays_taken"] == 5 and found["arrays_taken_bytes"] == (3 * 8 + 4 + 2) << 20
        assert found["array_bytes_peak"] == 8 << 20 and found["array_bytes"] == 6 << 20
        assert found["allocations_refused"] == 1
        assert "--memory-max 16.0 MiB with --swap-max 64.0 MiB" in said
        assert whole.advice(ValueError()) is None
        assert found["cpu_user_s"] > 0 and "cpu_reclaimer_s" in found
    """)


def test_a_temporary_gets_the_pages_of_the_one_before() -> None:
    """As from malloc: no page is taken away and faulted in again; and zeros are zeros."""
    good("""
        whole.arm()
        import numpy as np
        x = np.arange(60_000) * 1.5
        want = x * 2 + 1
        before = whole.memory.stats()["fills"]
        for _ in range(50):
            y = x * 2
            y += 1
            assert (y == want).all()
            del y
            assert not np.zeros(60_000).any()
        filled = whole.memory.stats()["fills"] - before
        assert filled < 55 * (60_000 * 8 // 4096 + 1), "those of the zeros, and no others"
        assert whole.memory.stats()["arrays"] > 1
        found = whole.stats()
        assert found["arrays"] == 2 and found["array_bytes_peak"] <= 6 * 60_000 * 8
        whole.memory.check_valid("full")
    """)


def test_what_is_kept_is_given_back_when_room_is_needed() -> None:
    good("""
        whole.arm()
        import numpy as np
        kept = [np.ones(40_000) for _ in range(2)]
        del kept
        assert whole.memory.stats()["arrays"] == 2
        rng = np.random.default_rng(1)
        big = [rng.integers(0, 1 << 60, 1 << 18) for _ in range(10)]
        assert whole.memory.stats()["arrays"] == 10, "units were taken out"
        del big
        kept = [np.ones(40_000) for _ in range(2)]
        del kept
        try:
            np.ones(1 << 30)
        except MemoryError:
            pass
        assert whole.memory.stats()["arrays"] == 0, "before an array is refused"
        whole.memory.check_valid("full")
    """)


def test_temporaries_in_threads() -> None:
    good("""
        whole.arm()
        import numpy as np
        from concurrent.futures import ThreadPoolExecutor
        def work(seed):
            rng = np.random.default_rng(seed)
            for n in rng.integers(33_000, 130_000, 150):
                a = np.full(n, seed)
                b = a + np.arange(n)
                assert int(b.sum()) == n * seed + n * (n - 1) // 2 and (a == seed).all()
            return True
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(8)))
        assert whole.stats()["arrays"] == 0
        whole.memory.check_valid("full")
    """)


def test_a_memory_error_that_is_not_ours() -> None:
    good("""
        whole.arm()
        import numpy
        assert "refused nothing" in whole.advice(MemoryError())
    """)


@pytest.mark.parametrize("bad", [
    {"memory_max": "lots"}, {"memory_max": "200%"}, {"swap_max": "50%"}, {"unit_bytes": "5K"},
    {"threshold": "few"}, {"delivery": "post"}, {"directory": "/nowhere/at/all"},
])
def test_wrong_settings_are_found_at_once(bad: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        Settings(**bad).check()  # type: ignore[arg-type]


def test_what_is_found_late_ends_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-c",
         HEAD.replace('"16M"', '"1M"') + "whole.arm()\ntry:\n import numpy\nexcept Exception: pass"],
        capture_output=True, text=True, timeout=100, env={**os.environ, "PYTHONPATH": SRC},
    )
    assert done.returncode == 2
    assert done.stderr.startswith("coldmem: memory_max of 1.0 MiB") and done.stderr.count("\n") == 1


@pytest.mark.tsan
def test_threads_that_make_and_drop_arrays() -> None:
    """What one thread gives back another takes, with its pages; and at the limit all of it goes."""
    good("""
        import threading
        import numpy as np
        whole.arm()
        wrong = []
        def work(seed):
            rng = np.random.default_rng(seed)
            kept = []
            for turn in range(150):
                n = int(rng.integers(40_000, 90_000))
                a = np.full(n, seed * 1000 + turn)
                b = a + 1
                if not (b == seed * 1000 + turn + 1).all() or np.zeros(n).any():
                    wrong.append((seed, turn))
                if turn % 50 < 20:
                    kept.append(b)
                elif kept:
                    b = kept.pop()
                    if b[0] != b[-1]:
                        wrong.append((seed, turn))
                if turn % 25 == 0:
                    whole.stats()
        crew = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        for t in crew: t.start()
        for t in crew: t.join()
        assert not wrong, wrong
        assert whole.memory.stats()["dropped"] > 0
        whole.memory.check_valid("full")
    """)
