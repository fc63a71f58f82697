"""fork by C code, of which Python hears nothing: right data, or a sentence and an end; never zeros."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from forks import MIB, c_fork, in_child, mixed

from coldmem import Memory
from coldmem.linux.memory import vectored
from coldmem.testing.fork_stress import SpareStress

Make = Callable[..., Memory]
pytestmark = pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")


def outcome(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    # From Python 3.12 on os.fork warns where there are other threads, and ours are.
    quiet = ["-W", "ignore:This process:DeprecationWarning"]
    return subprocess.run(
        [sys.executable, *quiet, "-c", textwrap.dedent(program), *arguments],
        capture_output=True, text=True, timeout=60,
    )


CALLS = """
    import ctypes, os, sys
    import numpy as np
    from coldmem import Memory

    memory = Memory("16M", "32M", delivery=sys.argv[1])
    want = np.random.default_rng(1).integers(0, 256, 6 << 20, np.uint8)
    a = memory.array(want)
    there = memory.zeros(6 << 20, np.uint8)
    memory.evict(a)
    if (ctypes.CDLL(None).fork() if sys.argv[2] == "c" else os.fork()) == 0:
        with open(sys.argv[3], "wb", buffering=0) as file:
            assert file.write(a) == len(a)
        memory.evict(there)
        with open(sys.argv[3], "rb", buffering=0) as file:
            assert file.readinto(there) == len(a)
        print("child", np.array_equal(there, want), flush=True)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.wait()[1])
    print("parent", code, there.any(), np.array_equal(a, want), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("fork", ["c", "python"])
def test_system_calls_in_a_child(delivery: str, tmp_path: Path, fork: str) -> None:
    """Also where the parent has handler threads, and the child of C code none."""
    done = outcome(CALLS, delivery, fork, str(tmp_path / "file"))
    assert (done.stdout, done.stderr) == ("child True\nparent 0 False True\n", "")


@pytest.mark.parametrize("fork", [os.fork, c_fork])
def test_a_child_takes_no_pages_from_its_parent(make_memory: Make, fork: Callable[[], int]) -> None:
    """The batch call names a process: it must not be the parent any more."""
    memory = make_memory("32M", "32M")
    want = mixed(8 * MIB)
    a = memory.array(want)

    def job() -> None:
        assert not vectored()
        memory.evict(a[::2])
        memory.evict(a)
        assert np.array_equal(a, want)

    before = vectored()
    assert in_child(job, fork) == 0
    assert vectored() == before
    assert np.array_equal(a, want)
    del a


TAKEN = """
    import ctypes, os, sys
    import numpy as np
    from coldmem import Memory

    memory = Memory("8M", "64M", delivery=sys.argv[1])
    rng = np.random.default_rng(1)
    a = memory.array(rng.integers(0, 256, 12 << 20, np.uint8))
    assert memory.stats()["swap_bytes"] > 1 << 20
    before = set(os.listdir("/proc/self/fd"))
    here, there = os.pipe()
    if (ctypes.PyDLL(None).fork() if sys.argv[2] == "c" else os.fork()) == 0:
        for name in set(os.listdir("/proc/self/fd")) - before - {str(here), str(there)}:
            try:
                if os.readlink(f"/proc/self/fd/{name}").startswith("pipe:"):
                    os.close(int(name))  # as a daemon does that closes all it does not know
            except OSError:
                pass
        os.read(here, 1)
        print("child read", a.sum(), flush=True)
        os._exit(0)
    for _ in range(6):
        for first in range(0, 12 << 20, 1 << 20):
            a[first : first + (1 << 20)] = rng.integers(0, 256, 1 << 20, np.uint8)
        memory.zswap.swap.used_bytes
    os.write(there, b"x")
    print("ended", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize("fork", ["c", "python"])
def test_what_the_parent_took_again_is_said(delivery: str, fork: str) -> None:
    """The one way that is left: the child closes the pipe by which its parent knows of it."""
    done = outcome(TAKEN, delivery, fork)
    assert done.returncode == 0, done.stderr
    assert "child read" not in done.stdout
    assert done.stdout == f"ended {-signal.SIGBUS}\n"
    assert "was on disk when this process was forked" in done.stderr and "damaged" not in done.stderr


RAW = """
    import ctypes, os, sys
    from coldmem import Memory

    memory = Memory("16M", 0, delivery=sys.argv[1])
    a = memory.ones(1_000_000)
    memory.evict(a)
    if sys.argv[2] == "hot":
        a.sum()
    libc = ctypes.PyDLL(None)
    if (libc.syscall(57) if sys.argv[3] == "syscall" else libc._Fork()) == 0:
        print("child read", a[500_000], flush=True)
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.wait()[1]), a.sum(), flush=True)
    if libc.fork() == 0:  # and the ordinary way is as it was
        print("child read", a[500_000], flush=True)
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the number of the system call is x86-64's")
@pytest.mark.parametrize("way", ["syscall", "_Fork"])
@pytest.mark.parametrize("place", ["hot", "away"])
def test_a_process_made_around_the_c_library(delivery: str, place: str, way: str) -> None:
    done = outcome(RAW, delivery, place, way)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"ended {-signal.SIGSEGV} 1000000.0", "child read 1.0", "ended 0"]


@pytest.mark.tsan
@pytest.mark.parametrize("kept", [True, False])
def test_a_fork_while_threads_allocate(
    make_memory: Make, run_threads: Callable[..., Sequence[object]], stress_seconds: float,
    sanitized: str, kept: bool,
) -> None:
    """What is kept for NumPy can be used in the child, and the loader's list of modules be read."""
    memory = make_memory("64M")
    stress = SpareStress(memory, 300_000 if kept else 5 * MIB, kept)
    ended: list[int] = []

    def forker() -> None:
        try:
            for _ in range(int(stress_seconds * (20 if sanitized else 100))):
                ended.append(stress.fork())
        finally:
            stress.stop()

    found = run_threads(forker, stress.watch, stress.hammer, stress.hammer)[2:]
    assert set(ended) == {0}, f"of {len(ended)} children {sum(map(bool, ended))} could not"
    assert all(isinstance(n, int) and n > 0 for n in found)
    stress.drop()
    assert memory.stats()["arrays"] == 0


REFUSED = """
    import ctypes, os, sys, struct
    import numpy as np
    from coldmem import Memory

    memory = Memory("16M", 0, delivery=sys.argv[1])
    a = memory.ones(1_000_000)
    memory.evict(a)
    # seccomp: from here on userfaultfd (323) and open of the device (257, openat) say EPERM.
    libc = ctypes.CDLL(None, use_errno=True)
    program = b"".join(struct.pack("HBBI", *line) for line in [
        (0x20, 0, 0, 0), (0x15, 1, 0, 323), (0x15, 0, 1, 257), (0x06, 0, 0, 0x00050001),
        (0x06, 0, 0, 0x7FFF0000)])
    buffer = ctypes.create_string_buffer(program)
    filter = struct.pack("HxxxxxxQ", 5, ctypes.addressof(buffer))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, filter, 0, 0) == 0, os.strerror(ctypes.get_errno())
    pid = os.fork() if sys.argv[2] == "python" else libc.fork()
    if pid == 0:
        value = float(a[500_000])
        os.write(1, f"child read {value}\\n".encode())
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert a.sum() == 1_000_000, "the parent has lost nothing"
    print("parent", code, flush=True)
    os._exit(0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter is written for x86-64")
@pytest.mark.parametrize("fork", ["python", "c"])
def test_a_child_without_the_right_is_told(delivery: str, fork: str) -> None:
    """seccomp refuses userfaultfd to the child: a sentence and a signal, never zeros."""
    done = outcome(REFUSED, delivery, fork)
    assert done.returncode == 0, done.stderr
    assert "child read" not in done.stdout
    assert f"parent {-signal.SIGSEGV}" in done.stdout or f"parent {-signal.SIGBUS}" in done.stdout
    if fork == "python":
        assert "cannot be used in the forked child" in done.stderr
