"""faulthandler and foreign SIGBUS handlers beside a Memory that lives by SIGBUS. Each in a process."""

from __future__ import annotations

import os
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
    done = run("""
        memory = open_memory()
        threads = [threading.Thread(target=work, args=(memory, 8)) for _ in range(3)]
        for t in threads: t.start()
        while any(t.is_alive() for t in threads):
            faulthandler.enable()
            faulthandler.disable()
        for t in threads: t.join()
        print("done")
    """)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


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


@pytest.mark.parametrize("first", ["memory", "handler"])
def test_a_c_handler_repairs_a_foreign_access(first: str) -> None:
    """A handler in C that makes the access possible: it is called, and the access is done."""
    memory = "memory = open_memory()"
    handler = "old = libc.signal(int(signal.SIGBUS), on_bus); reinstall()"
    one, two = (memory, handler) if first == "memory" else (handler, memory)
    good(f"""
        from coldmem.memory.deliver import reinstall
        libc = ctypes.CDLL(None)
        file = tempfile.TemporaryFile()
        file.truncate(1 << 16)
        view = mmap.mmap(file.fileno(), 1 << 16)
        file.truncate(0)
        fd, calls = file.fileno(), []
        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def on_bus(number):
            calls.append(number)
            os.ftruncate(fd, 1 << 16)
        {one}
        {two}
        work(memory)
        assert view[4096] == 0 and calls == [signal.SIGBUS]
        work(memory)
    """.replace("reinstall()", "reinstall()" if first == "memory" else "None"))


def test_the_modules_get_their_functions_back() -> None:
    good("""
        before = faulthandler.enable, faulthandler.disable, signal.signal
        one, two = open_memory(), open_memory()
        assert faulthandler.enable is not before[0] and faulthandler.enable.__name__ == "enable"
        one.close()
        assert faulthandler.enable is not before[0]
        two.close()
        assert (faulthandler.enable, faulthandler.disable, signal.signal) == before
        three = coldmem.Memory("12M", "64M", delivery="sigbus")
        work(three)
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
