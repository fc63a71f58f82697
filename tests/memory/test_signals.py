"""Signals and ends of threads in the middle of faults; memory that runs out. In both deliveries.

SIGBUS itself, and who else wants it, is in test_sigbus.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from libraries import Everything, evicting

import coldmem
from coldmem import Memory

Make = Callable[..., Memory]
MIB = 1 << 20
SRC = str(Path(coldmem.__file__).parents[1])
N = 2 * MIB
NOISE = np.random.default_rng(4).integers(0, 256, N, np.uint8)


# -- signals ----------------------------------------------------------------------------------------
@contextlib.contextmanager
def storm(number: int, action: Callable[[], object] = lambda: None) -> Iterator[list[int]]:
    """As long as the block runs, a Python handler is called some thousand times a second."""
    got: list[int] = []
    stop = threading.Event()
    main = threading.get_ident()

    def handler(signum: int, frame: object) -> None:
        got.append(signum)
        action()

    def send() -> None:
        while not stop.wait(0.0002):
            signal.pthread_kill(main, number)

    before = signal.signal(number, handler)
    sender = threading.Thread(target=send)
    if number == signal.SIGALRM:
        signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
    else:
        sender.start()
    try:
        yield got
    finally:
        if number == signal.SIGALRM:
            signal.setitimer(signal.ITIMER_REAL, 0)
        else:
            stop.set()
            sender.join()
        signal.signal(number, before)


SIGNALS = [signal.SIGALRM, signal.SIGUSR1]


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_while_arrays_fault(make_memory: Make, number: int) -> None:
    memory = make_memory("8M", "64M", threshold="16K")
    with evicting(memory) as out:
        a, touched = memory.array(NOISE), memory.array(NOISE)
        place = iter(range(1 << 40))
        # The handler, too, touches what is away: in Python, between two steps of the program.
        with storm(number, lambda: touched[next(place) * 4099 % N]) as got:
            rounds = 0
            while len(got) < 300 or rounds < 10:
                out.now()
                with memory:
                    assert np.array_equal(a + np.uint8(1), NOISE + np.uint8(1))
                a ^= 0xFF
                a ^= 0xFF
                rounds += 1
        assert np.array_equal(a, NOISE) and np.array_equal(touched, NOISE)
        assert out.left() > 1000
        del a, touched
    memory.check_valid("full")


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_while_system_calls_fault(make_memory: Make, number: int, tmp_path: Path) -> None:
    """Interrupted calls are done again, or come back short, as always; never wrong."""
    memory = make_memory("8M", "64M")
    path = tmp_path / "data"
    with evicting(memory) as out:
        a = memory.array(NOISE)

        def write(fd: int) -> None:
            with open(fd, "wb") as file:
                file.write(a.data)

        with storm(number) as got:
            rounds = 0
            while len(got) < 200 or rounds < 5:
                out.now()
                a.tofile(path)
                assert path.read_bytes() == NOISE.tobytes()
                a[:] = 0
                out.now()
                with open(path, "rb") as file:
                    assert file.readinto(a.data) == N
                assert np.array_equal(a, NOISE)
                there, here = os.pipe()
                writer = threading.Thread(target=write, args=(here,))
                writer.start()
                with open(there, "rb") as file:
                    assert file.read() == NOISE.tobytes()
                writer.join()
                rounds += 1
        del a
    memory.check_valid("full")


# -- ends of threads and processes ------------------------------------------------------------------
def test_threads_that_end_with_their_fault(make_memory: Make) -> None:
    """Threads that Python does not know, whose only instruction of note faults, and that are gone."""
    memory = make_memory("8M", "64M")
    libc = ctypes.CDLL(None)
    libc.pthread_create.argtypes = [ctypes.c_void_p] * 4
    libc.pthread_join.argtypes = [ctypes.c_ulong, ctypes.c_void_p]
    text = np.full(N, ord("x"), np.uint8)
    text[4095::4096] = 0
    a = memory.array(text)
    for _ in range(10):
        memory.evict(a)
        ids = (ctypes.c_ulong * 32)()
        for n in range(len(ids)):  # each measures a string, which is a page that is away
            assert libc.pthread_create(
                ctypes.addressof(ids) + 8 * n, None, libc.strlen, a.ctypes.data + n * 8192) == 0
        memory.evict(a)
        for thread in ids:
            length = ctypes.c_size_t()
            assert libc.pthread_join(thread, ctypes.addressof(length)) == 0
            assert length.value == 4095
    assert memory.stats()["loads"] >= 320 and np.array_equal(a, text)
    memory.check_valid("full")
    del a


def test_threads_that_leave_by_an_exception(
    make_memory: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest's keeps them all
    memory = make_memory("8M", "64M", threshold="16K")
    a = memory.array(NOISE)

    def body(n: int) -> None:
        with memory:
            mine = a[n::7].copy()
            a[n * 4096] += 1
            if mine.sum() or True:
                raise SystemExit

    for n in range(40):
        memory.evict(a)
        thread = threading.Thread(target=body, args=(n,))
        thread.start()
        thread.join()
    want = NOISE.copy()
    want[: 40 * 4096 : 4096] += 1
    assert np.array_equal(a, want) and memory.stats()["arrays"] == 1
    memory.check_valid("full")
    del a, want


def run(text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), *arguments], capture_output=True, text=True,
        timeout=100, env={**os.environ, "PYTHONPATH": SRC},
    )


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)", "sys.exit(0)"])
def test_a_process_that_ends_while_threads_fault(delivery: str, end: str) -> None:
    done = run(f"""
        import os, signal, sys, threading, time
        import numpy as np
        from coldmem import Memory
        memory = Memory("8M", "64M", delivery=sys.argv[1])
        a = memory.ones(12 << 20, np.uint8)
        def body(n):
            while True:
                a[n * 4096 :: 4 * 4096] += 1
                memory.evict(a)
        for n in range(4):
            threading.Thread(target=body, args=(n,), daemon=True).start()
        while memory.stats()["loads"] < 2000:
            time.sleep(0.01)
        {end}
    """, delivery)
    assert (done.returncode, done.stdout, done.stderr) == (-9 if "KILL" in end else 0, "", "")


# -- memory that runs out ---------------------------------------------------------------------------
ENDLESS = """
    import sys
    import numpy as np
    from coldmem import Memory
    memory = Memory("8M", "16M", delivery=sys.argv[1])
    rng, kept = np.random.default_rng(1), []
    if sys.argv[2] == "inside":
        memory.__enter__()
    while True:
        block = rng.integers(0, 256, 1 << 20, np.uint8)
        kept.append(block if sys.argv[2] == "inside" else memory.array(block))
        print(len(kept), flush=True)
"""


@pytest.mark.parametrize("how", ["outside", "inside"])
def test_a_program_that_never_has_enough(delivery: str, how: str) -> None:
    """It ends with a MemoryError that says the limit, what is in use and by what; it is not killed."""
    done = run(ENDLESS, delivery, how)
    assert done.returncode == 1
    assert int(done.stdout.split()[-1]) >= 12, "most of memory_max and swap_max was handed out"
    last = done.stderr.strip().splitlines()[-1]
    if how == "inside":  # NumPy words it
        assert "MemoryError: Unable to allocate 1.00 MiB" in last
        return
    assert last.startswith("coldmem.errors.MemoryLimitError: no room for 1.0 MiB: arrays of ")
    for part in ("8.0 MiB of RAM (memory_max)", "16.0 MiB of swap file (swap_max)", "overcommit"):
        assert part in last


def test_everything_is_what_it_says(make_memory: Make) -> None:
    """The tool of these tests: whatever was allocated after the first array goes out."""
    memory = make_memory("8M", "32M")
    first = memory.zeros(MIB, np.uint8)
    others = [memory.array(NOISE[:MIB]) for _ in range(3)]
    first[:] = 1
    assert memory.evict(Everything(first.ctypes.data)) > 2 * MIB
    assert memory.stats()["hot_bytes"] == 0
    assert all(np.array_equal(other, NOISE[:MIB]) for other in others) and first.sum() == MIB
    del first, others
