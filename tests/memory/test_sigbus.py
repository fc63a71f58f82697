"""A Memory that lives by SIGBUS beside others that handle it, or block it. Each in a process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import coldmem
from coldmem.linux.userfaultfd import rights_here

pytestmark = pytest.mark.skipif(
    rights_here() == "none", reason="no userfaultfd here: see `coldmem doctor`"
)
SRC = str(Path(coldmem.__file__).parents[1])

HEAD = """
import ctypes, faulthandler, mmap, os, signal, sys, tempfile, threading
import numpy as np, coldmem

def open_memory():
    return coldmem.Memory("12M", "64M", delivery="sigbus")

def work(memory, times=1):
    want = np.arange(3 << 20, dtype=np.int64) * 2654435761
    for _ in range(times):
        a = memory.array(want)
        assert np.array_equal(a, want)

def foreign():
    file = tempfile.TemporaryFile()
    file.truncate(1 << 16)
    view = mmap.mmap(file.fileno(), 1 << 16)
    file.truncate(0)
    return view[4096]
"""


def run(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HEAD + textwrap.dedent(body)], capture_output=True, text=True,
        timeout=100, env={**os.environ, "PYTHONPATH": SRC},
    )


def good(body: str) -> None:
    done = run(body)
    assert (done.returncode, done.stderr) == (0, "")


def dies_of_sigbus(body: str) -> str:
    done = run(body)
    assert done.returncode == -signal.SIGBUS, done.stderr
    return done.stderr


def test_faulthandler_enabled_after_the_memory() -> None:
    good("""
        memory = open_memory()
        faulthandler.enable()
        work(memory)
    """)


def test_faulthandler_enabled_before_the_memory() -> None:
    good("""
        faulthandler.enable()
        memory = open_memory()
        work(memory)
        faulthandler.disable()
        work(memory)
        faulthandler.enable()
        faulthandler.enable(all_threads=False)
        work(memory)
        faulthandler.disable()
        work(memory)
    """)


def test_faulthandler_comes_and_goes_while_threads_fault() -> None:
    good("""
        memory = coldmem.Memory("12M", "256M", delivery="sigbus")
        threads = [threading.Thread(target=work, args=(memory, 8)) for _ in range(3)]
        for t in threads: t.start()
        while any(t.is_alive() for t in threads):
            faulthandler.enable()
            faulthandler.disable()
        for t in threads: t.join()
    """)


@pytest.mark.parametrize("order", [
    "faulthandler.enable(); memory = open_memory()",
    "memory = open_memory(); faulthandler.enable()",
    "memory = open_memory(); faulthandler.enable(); work(memory); memory.close()",
    "faulthandler.enable(); memory = open_memory(); work(memory); memory.close()",
    "memory = open_memory(); memory.close(); faulthandler.enable(); memory = open_memory()",
])
def test_a_foreign_sigbus_reaches_faulthandler_and_ends_the_process(order: str) -> None:
    said = dies_of_sigbus(order + "; foreign()")
    assert said.count("Fatal Python error: Bus error") == 1
    assert "in foreign" in said


@pytest.mark.parametrize("order", [
    "memory = open_memory()", "memory = open_memory(); work(memory); memory.close()",
    "memory = open_memory(); faulthandler.enable(); faulthandler.disable()",
    "memory = open_memory(); signal.signal(signal.SIGBUS, lambda *a: 0);"
    "signal.signal(signal.SIGBUS, signal.SIG_DFL)",
])
def test_a_foreign_sigbus_ends_the_process(order: str) -> None:
    assert dies_of_sigbus(order + "; foreign()") == ""


@pytest.mark.parametrize("sent", ["os.kill(os.getpid(), signal.SIGBUS)",
                                  "signal.raise_signal(signal.SIGBUS)"])
def test_a_sent_sigbus(sent: str) -> None:
    assert dies_of_sigbus(f"memory = open_memory(); {sent}") == ""
    said = dies_of_sigbus(f"memory = open_memory(); faulthandler.enable(); {sent}")
    assert said.count("Fatal Python error: Bus error") == 1
    good(f"signal.signal(signal.SIGBUS, signal.SIG_IGN); memory = open_memory(); {sent}; work(memory)")


@pytest.mark.parametrize("first", ["memory", "handler"])
def test_a_python_handler(first: str) -> None:
    memory, handler = "memory = open_memory()", "signal.signal(signal.SIGBUS, on_bus)"
    one, two = (memory, handler) if first == "memory" else (handler, memory)
    good(f"""
        got = []
        def on_bus(number, frame):
            got.append(number)
        {one}
        {two}
        work(memory)
        assert got == [] and signal.getsignal(signal.SIGBUS) is on_bus
        os.kill(os.getpid(), signal.SIGBUS)
        assert got == [signal.SIGBUS]
        work(memory)
        memory.close()
        os.kill(os.getpid(), signal.SIGBUS)
        assert got == [signal.SIGBUS] * 2
    """)


FILE = """
        file = tempfile.TemporaryFile()
        file.truncate(1 << 16)
        view = mmap.mmap(file.fileno(), 1 << 16)
        file.truncate(0)
"""


@pytest.mark.parametrize("how", ["sigaction", "signal"])
@pytest.mark.parametrize("first", ["memory", "handler"])
def test_a_c_handler_repairs_a_foreign_access(first: str, how: str) -> None:
    """A handler in C that makes the access possible: it is called, and the access is done."""
    memory = "memory = open_memory()"
    handler = f"assert repair_on_sigbus(file.fileno(), 1 << 16, {how!r})"
    one, two = (memory, handler) if first == "memory" else (handler, memory)
    good(FILE + f"""
        from coldmem.testing.signal_calls import repair_on_sigbus, repairs
        {one}
        {two}
        work(memory)
        assert repairs() == 0 and view[4096] == 0 and repairs() == 1
        work(memory)
        memory.close()
        file.truncate(0)
        assert view[4096] == 0 and repairs() == 2, "it is the process's own again"
        assert not repair_on_sigbus(file.fileno(), 1 << 16, {how!r})
    """)


@pytest.mark.parametrize("first", ["memory", "handler"])
def test_a_c_handler_that_was_set_around_us(first: str) -> None:
    """By an address from dlsym, which no table has: it is found at the next Memory."""
    memory = "memory = open_memory()"
    handler = "old = libc.signal(int(signal.SIGBUS), on_bus); again()"
    one, two = (memory, handler) if first == "memory" else (handler, memory)
    good(FILE + f"""
        libc = ctypes.CDLL(None)
        fd, calls = file.fileno(), []
        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def on_bus(number):
            calls.append(number)
            os.ftruncate(fd, 1 << 16)
        again = (lambda: open_memory().close()) if {first == "memory"} else (lambda: None)
        {one}
        {two}
        work(memory)
        assert view[4096] == 0 and calls == [signal.SIGBUS]
        work(memory)
    """)


def test_a_handler_around_us_that_calls_ours_next() -> None:
    """faulthandler's, in the kernel in front of ours: it comes to its end all the same."""
    said = dies_of_sigbus("""
        class Action(ctypes.Structure):
            _fields_ = [("handler", ctypes.c_void_p), ("mask", ctypes.c_ulong * 16),
                        ("flags", ctypes.c_int), ("restorer", ctypes.c_void_p)]
        libc, old, new = ctypes.CDLL(None), Action(), Action()
        memory = open_memory()
        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def on_bus(number):
            print("mine", file=sys.stderr, flush=True)
            libc.sigaction(int(signal.SIGBUS), ctypes.byref(old), None)
            libc.raise_ = libc["raise"]
            libc.raise_(number)
        new.handler, new.flags = ctypes.cast(on_bus, ctypes.c_void_p).value, 0x40000000
        assert libc.sigaction(int(signal.SIGBUS), ctypes.byref(new), ctypes.byref(old)) == 0
        open_memory().close()
        work(memory)
        foreign()
    """)
    assert said == "mine\n"


# -- blocked ----------------------------------------------------------------------------------------
BLOCKED = """
from coldmem.testing.signal_calls import is_blocked, sum_in_handler, sum_in_thread

def away(memory):
    a = memory.ones(100_000, np.uint8)
    assert memory.evict(a) > 0
    return a
"""


@pytest.mark.parametrize("how", ["pthread_sigmask", "sigprocmask", "attribute", "itself"])
def test_a_c_thread_with_all_signals_blocked(how: str) -> None:
    good(BLOCKED + f"""
memory = open_memory()
a = away(memory)
assert sum_in_thread(a.ctypes.data, a.nbytes, {how!r}) == a.nbytes
assert not is_blocked(signal.SIGBUS)
""")


def test_a_module_that_is_loaded_later_from_a_folder_with_our_name(tmp_path: Path) -> None:
    """Who clones coldmem has an environment in a folder of that name: its modules are not ours."""
    import coldmem.testing.signal_calls as module

    folder = tmp_path / "coldmem" / "linux"
    folder.mkdir(parents=True)
    copy = shutil.copy(str(module.__file__), folder)
    good(f"""
        from importlib.machinery import ExtensionFileLoader
        from importlib.util import module_from_spec, spec_from_loader
        memory = open_memory()
        a = memory.ones(100_000, np.uint8)
        memory.evict(a)
        loader = ExtensionFileLoader("signal_calls", {str(copy)!r})
        module = module_from_spec(spec_from_loader("signal_calls", loader))
        loader.exec_module(module)
        assert module.sum_in_thread(a.ctypes.data, a.nbytes, "itself") == a.nbytes
    """)


@pytest.mark.parametrize(
    "how", ["sigaction", "set before", "sigsuspend", "ppoll", "pselect", "epoll_pwait"])
def test_a_handler_of_another_signal_with_all_signals_blocked(how: str) -> None:
    good(BLOCKED + f"""
if {how == "set before"}:
    sum_in_handler(0, 0, "sigaction")
memory = open_memory()
a = away(memory)
assert sum_in_handler(a.ctypes.data, a.nbytes, {how!r}) == a.nbytes
""")


def test_what_a_program_sees_of_its_masks() -> None:
    """All it asked for but SIGBUS; without a Memory, SIGBUS too."""
    good(BLOCKED + """
every = set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}
before = signal.pthread_sigmask(signal.SIG_SETMASK, every)
assert is_blocked(signal.SIGBUS)
memory = open_memory()
assert not is_blocked(signal.SIGBUS) and is_blocked(signal.SIGUSR1)
assert signal.pthread_sigmask(signal.SIG_BLOCK, every) == every - {signal.SIGBUS}
assert signal.pthread_sigmask(signal.SIG_SETMASK, every) == every - {signal.SIGBUS}
assert signal.pthread_sigmask(signal.SIG_SETMASK, before) == every - {signal.SIGBUS}
work(memory)
memory.close()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGBUS})
assert is_blocked(signal.SIGBUS)
""")


@pytest.mark.parametrize("again", [False, True])
def test_threads_that_block_all_signals_before_the_memory(again: bool) -> None:
    """They sleep, at a lock and in a system call, while the Memory is made; and at the second, too."""
    good(BLOCKED + f"""
import time
from coldmem.linux.blocked import blocking
go, sums, ready = threading.Event(), [], threading.Barrier(4)
def body(wait):
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
    ready.wait()
    wait()
    go.wait()
    sums.append(int(a.sum()))
waits = [lambda: None, lambda: time.sleep(0.3), lambda: os.read(reader, 1)]
reader, writer = os.pipe()
if {again}:
    open_memory().close()
threads = [threading.Thread(target=body, args=(wait,)) for wait in waits]
for t in threads: t.start()
ready.wait()
assert {again} or len(blocking(signal.SIGBUS)) == 3
memory = open_memory()
assert blocking(signal.SIGBUS) == {{}} and len(blocking(signal.SIGUSR1)) == 3
a = away(memory)
os.write(writer, b"1")
go.set()
for t in threads: t.join()
assert sums == [a.nbytes] * 3
""")


def test_threads_that_cannot_be_reached_are_named() -> None:
    good(BLOCKED + """
import warnings
from coldmem.memory import unblock
unblock.unblock_elsewhere = lambda number: ["a-worker"]
with warnings.catch_warnings(record=True) as found:
    warnings.simplefilter("always")
    memory = open_memory()
(one,) = found
assert "a-worker" in str(one.message) and "SIGBUS" in str(one.message)
assert one.category is RuntimeWarning and one.filename == "<string>"
work(memory)
""")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_setuid_in_all_threads_still_works() -> None:
    """glibc sends its own signal to every thread for that; our handler is in front of its."""
    good(BLOCKED + """
stop = threading.Event()
def body():
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
    stop.wait()
threads = [threading.Thread(target=body) for _ in range(3)]
for t in threads: t.start()
memory = open_memory()
libc = ctypes.CDLL(None)
assert libc.setresuid(65534, 65534, 65534) == 0
users = {line.split()[1] for t in os.listdir("/proc/self/task")
         for line in open(f"/proc/self/task/{t}/status") if line.startswith("Uid")}
assert users == {"65534"}, users
stop.set()
for t in threads: t.join()
work(memory)
""")


@pytest.mark.parametrize("order", ["pandas first", "memory first"])
def test_pandas_query_with_numexpr(order: str) -> None:
    """Its workers run with all signals blocked."""
    pytest.importorskip("numexpr", reason="numexpr is not installed: the 'test' extra has it")
    pytest.importorskip("pandas", reason="pandas is not installed: the 'test' extra has it")
    imports, memory = "import numexpr, pandas as pd", "memory = open_memory()"
    one, two = (imports, memory) if order == "pandas first" else (memory, imports)
    good(f"""
        os.environ["NUMEXPR_NUM_THREADS"] = "4"
        {one}
        {two}
        n = 1_000_000
        x = np.random.default_rng(3).normal(size=n)
        want = x[x > 1]
        with memory:
            frame = pd.DataFrame({{"x": x.copy(), "y": np.arange(n)}})
            for _ in range(5):
                memory.evict(frame["x"].to_numpy())
                got = frame.query("x > 1 and y >= 0", engine="numexpr")
                assert np.array_equal(got["x"].to_numpy(), want)
        assert len(os.listdir("/proc/self/task")) >= 4 + 3
        del frame, got
    """)


def test_a_disabled_faulthandler_is_silent_and_says_so() -> None:
    assert dies_of_sigbus("""
        memory = open_memory()
        assert not faulthandler.is_enabled() and not faulthandler.disable()
        faulthandler.enable()
        assert faulthandler.is_enabled() and faulthandler.disable()
        assert not faulthandler.is_enabled() and not faulthandler.disable()
        foreign()
    """) == ""
    said = dies_of_sigbus("""
        memory = open_memory()
        faulthandler.enable()
        faulthandler.disable()
        memory.close()
        assert not faulthandler.is_enabled()
        memory = open_memory()
        work(memory)
        faulthandler.enable()
        assert faulthandler.is_enabled()
        foreign()
    """)
    assert said.count("Fatal Python error: Bus error") == 1
