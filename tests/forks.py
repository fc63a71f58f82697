"""What tests of forks share: ways to fork, a child that runs a function, data of both kinds."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np

MIB = 1 << 20


def mixed(nbytes: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    data = np.zeros((nbytes // 4096, 4096), np.uint8)
    data[::2] = rng.integers(0, 256, (len(data[::2]), 4096), np.uint8)
    data[1::2, ::64] = rng.integers(0, 256, data[1::2, ::64].shape, np.uint8)
    return data.reshape(-1)


def in_child(job: Callable[[], Any], fork: Callable[[], int] = os.fork, seconds: float = 60,
             meanwhile: Callable[[], object] = lambda: None) -> int:
    """Exit status of a forked child that runs `job`: 0, or 9 after an exception; -signal.

    Then the parent calls `meanwhile`. No other thread may want Python's lock while C code forks.
    """
    pid = fork()
    if pid == 0:
        status = 9
        try:
            job()
            status = 0
        except BaseException as error:
            os.write(2, f"child: {type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(status)
    meanwhile()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError("the child hangs")


def c_fork() -> int:
    """fork as C code does it: Python's hooks are not called."""
    return int(ctypes.CDLL(None).fork())


def held_c_fork() -> int:
    """The same, with Python's lock held, so that the child has it."""
    return int(ctypes.PyDLL(None).fork())
