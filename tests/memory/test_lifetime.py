"""What is left after close, at interpreter exit, without rights, and when there is no room."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from coldmem import Memory
from coldmem.errors import MemoryLimitError

Make = Callable[..., Memory]
MIB = 1 << 20
SOURCE = Path(sys.modules["coldmem"].__file__ or "").parents[1]


def noise(nbytes: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, nbytes, np.uint8)


def rss_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def mappings() -> int:
    with open("/proc/self/maps") as file:
        return sum(1 for _ in file)


def deleted_files() -> int:
    """Open files without a name: swap files."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        try:
            found += "(deleted)" in os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            pass
    return found


def cycle(delivery: str) -> None:
    memory = Memory("8M", "32M", delivery=delivery)
    want = noise(10 * MIB)
    a = memory.array(want)
    assert memory.stats()["swap_bytes"] > 0
    assert np.array_equal(a, want)
    with memory.pinned(a[:MIB]), memory:
        assert memory.owns(np.ones(100_000))
    del a
    memory.close()


def test_twenty_cycles_leave_nothing(delivery: str, sanitized: str) -> None:
    for _ in range(2):
        cycle(delivery)  # libraries, NumPy's caches, arenas of malloc
    gc.collect()
    before = descriptors(), threading.active_count(), deleted_files()
    rss, maps = rss_bytes(), mappings()
    for _ in range(20):
        cycle(delivery)
    gc.collect()
    assert (descriptors(), threading.active_count(), deleted_files()) == before
    if sanitized != "address":  # that one keeps what was freed
        assert rss_bytes() - rss < 12 * MIB, "half a Memory's limit more than before"
        assert mappings() - maps < 20


def test_a_memory_that_is_dropped_without_close(delivery: str) -> None:
    gc.collect()
    before = descriptors(), threading.active_count(), deleted_files()
    for _ in range(5):
        memory = Memory("8M", "32M", delivery=delivery)
        a = memory.array(noise(MIB))
        memory.evict(a)
        del memory
        gc.collect()
        assert np.array_equal(a, noise(MIB)), "the array keeps it"
        del a
        kept = Memory("8M", 0, delivery=delivery).allocate(5000)
        memoryview(kept)[:3] = b"abc"
        assert bytes(memoryview(kept)[:4]) == b"abc\0"
        del kept
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and (
        (descriptors(), threading.active_count(), deleted_files()) != before
    ):
        gc.collect()
        time.sleep(0.05)
    assert (descriptors(), threading.active_count(), deleted_files()) == before


def test_many_memories_at_once(delivery: str) -> None:
    memories = [Memory("8M", "8M", delivery=delivery) for _ in range(6)]
    arrays = [memory.array(noise(6 * MIB, seed)) for seed, memory in enumerate(memories)]
    for seed, array in enumerate(arrays):
        assert np.array_equal(array, noise(6 * MIB, seed))
    for memory, array in zip(memories, arrays, strict=True):
        assert [other.owns(array) for other in memories].count(True) == 1 and memory.owns(array)
    arrays.clear()
    del array
    for memory in memories:
        memory.check_valid("full")
        memory.close()


# -- processes of their own -------------------------------------------------------------------------
def script(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments], capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": str(SOURCE)}, cwd="/",
    )


EXIT = {
    "live arrays": "",
    "kept by another module": "import os; os.kept = (memory, a)",
    "in a cycle": "memory.me = memory; memory.a = a; np.kept = memory",
    "entered": "memory.__enter__(); b = np.ones(1_000_000)",
    "a thread at work": """
        import threading
        def body():
            while True:
                a[::4096] += 1
        threading.Thread(target=body, daemon=True).start()""",
    "used by atexit": """
        import atexit
        atexit.register(lambda: print(int(a[0])))""",
}


@pytest.mark.parametrize("how", EXIT)
def test_interpreter_exit(delivery: str, how: str) -> None:
    done = script(f"""
        import sys
        import numpy as np
        from coldmem import Memory
        memory = Memory("8M", "64M", delivery=sys.argv[1])
        a = memory.ones(12_000_000, np.uint8)
        a[::4096] = 7
        memory.evict(a)
        {textwrap.indent(textwrap.dedent(EXIT[how]), " " * 8).strip()}
    """, delivery)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == ("7\n" if how == "used by atexit" else "")


def test_an_overrun_ends_with_a_sentence(delivery: str) -> None:
    done = script("""
        import ctypes, sys
        from coldmem import Memory
        memory = Memory("8M", 0, delivery=sys.argv[1])
        a = memory.ones(100)
        print(ctypes.string_at(a.ctypes.data + (1 << 20), 1))
    """, delivery)
    assert done.returncode < 0 and done.stdout == ""
    assert "belongs to no live array" in done.stderr


def test_use_after_free_ends_with_a_sentence(delivery: str) -> None:
    done = script("""
        import ctypes, sys
        from coldmem import Memory
        memory = Memory("8M", 0, delivery=sys.argv[1])
        a = memory.ones(100)
        at = a.ctypes.data
        del a
        ctypes.memset(at, 1, 1)
        print("written")
    """, delivery)
    assert done.returncode < 0 and done.stdout == ""
    assert "belongs to no live array" in done.stderr


BLOCKED = """
    import signal, sys, threading
    from coldmem import Memory
    memory = Memory("8M", 0, delivery=sys.argv[1])
    a = memory.ones(100_000)
    memory.evict(a)
    def body():
        signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
        print(int(a.sum()))
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
"""


def test_a_thread_with_its_signals_blocked(delivery: str) -> None:
    """As numexpr's workers; see test_signals.py for all ways to do so."""
    done = script(BLOCKED, delivery)
    assert (done.returncode, done.stdout, done.stderr) == (0, "100000\n", "")


def test_faulthandler_enabled_after_the_memory(delivery: str) -> None:
    done = script("""
        import faulthandler, sys
        from coldmem import Memory
        memory = Memory("8M", 0, delivery=sys.argv[1])
        a = memory.ones(100_000)
        memory.evict(a)
        faulthandler.enable()
        print(int(a.sum()))
        faulthandler.disable()
        memory.evict(a)
        print(int(a.sum()))
    """, delivery)
    assert (done.returncode, done.stdout, done.stderr) == (0, "100000\n100000\n", "")


# -- no room ----------------------------------------------------------------------------------------
def test_no_room_says_where_it_went(make_memory: Make) -> None:
    memory = make_memory("8M", "8M")
    kept = memory.array(noise(8 * MIB))
    with pytest.raises(MemoryLimitError) as info:
        memory.zeros(8 * MIB, np.uint8)
    said = str(info.value)
    for part in ("no room for 8.0 MiB", "arrays of 8.0 MiB", "memory_max", "swap_max", "overcommit"):
        assert part in said
    assert isinstance(info.value, MemoryError) and info.value.exit_code == 3
    assert np.array_equal(kept, noise(8 * MIB))
    memory.check_valid("full")
    del kept
    gc.collect()
    again = memory.array(noise(8 * MIB, 2))  # what was refused fits now
    assert np.array_equal(again, noise(8 * MIB, 2))
    del again


def test_overcommit_beyond_everything_loses_nothing(make_memory: Make) -> None:
    """More noise than RAM and swap file hold: the limit is passed and counted, no byte is lost."""
    memory = make_memory("8M", "4M", overcommit=True)
    kept = [memory.array(noise(MIB, seed)) for seed in range(20)]
    for seed, array in enumerate(kept):
        assert np.array_equal(array, noise(MIB, seed))
    assert memory.stats()["overshoots"] > 0
    memory.check_valid("full")
    kept.clear()
    del array
    assert memory.stats()["hot_bytes"] == 0
    memory.check_valid("full")


TIGHT = """
    import ctypes, os, sys, threading
    import numpy as np
    from coldmem import Memory

    memory = Memory("8M", "64M", delivery=sys.argv[1])
    copy = ctypes.CDLL(None).memmove  # lets go of Python's lock
    a = memory.array(np.random.default_rng(1).integers(0, 9, 2 << 20, np.uint8))
    held = memory.zeros(6 << 20, np.uint8)
    ends = [0, *range(1 << 20, 5 << 20, 1 << 20), *range(5 << 20, (6 << 20) + 1, 4096)]

    def work():
        for low, high in zip(ends, ends[1:]):
            pins.append(memory.pinned(held[low:high]))
            pins[-1].__enter__()
            memory.evict(a)
            if memory.stats()["overshoots"]:
                break
            copy(ctypes.c_void_p(held.ctypes.data), ctypes.c_void_p(a.ctypes.data + 40 * 4096 - 4),
                 ctypes.c_size_t(8))
        print("done")

    pins = []
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
        if memory.stats()["faults"] > 5000:
            print("one unit is driven out for the other, for ever:", memory.stats())
            break
    sys.stdout.flush()
    os._exit(0)
"""


def test_room_for_one_unit_and_an_access_that_needs_two(delivery: str) -> None:
    """Pins take all of the limit, unit by unit, until hardly any or no room is left for the rest."""
    done = script(TIGHT, delivery)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("nbytes", [1 << 45, 1 << 61, 1 << 63])
def test_absurd_sizes(make_memory: Make, nbytes: int) -> None:
    memory = make_memory("8M", 0)
    with pytest.raises(MemoryError):
        memory.zeros(nbytes, np.uint8)
    with memory, pytest.raises((MemoryError, ValueError)):
        np.ones(nbytes, np.uint8)
    memory.check_valid("full")
