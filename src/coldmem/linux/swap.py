"""The kernel's own swap: make an area, use it, stop using it.

Needs root. No policy. What fails raises OSError with the path.
Locks: `changing_swap`, of the whole machine, for programs that put settings back afterwards.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coldmem.errors import EnvironmentFailure

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PREFER = 0x8000  # flag of swapon(2): the lower bits are a priority
PRIORITY_MAX = 0x7FFF
DISCARD, DISCARD_FREED = 0x10000, 0x40000  # flags of swapon(2); the second: while it is in use
_HEADER_OFFSET = 1024  # before it: room for a boot sector
_MAGIC = b"SWAPSPACE2"
_TRIES = 20  # of swapoff when a signal interrupts it
_SWAPS = Path("/proc/swaps")
_TURN_S_MAX = 300.0


def format_swap(path: str | Path, size_bytes: int) -> None:
    """Write the header that swapon(2) looks for; the rest of the file or device stays as it is."""
    page = bytearray(PAGE_BYTES)
    struct.pack_into("=III", page, _HEADER_OFFSET, 1, size_bytes // PAGE_BYTES - 1, 0)
    page[-len(_MAGIC) :] = _MAGIC
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, page, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def _call(name: str, path: str | Path, *arguments: int) -> int:
    """0 or the errno of a system call that the C library has a function for."""
    function = getattr(ctypes.CDLL(None, use_errno=True), name)
    return ctypes.get_errno() if function(os.fsencode(path), *arguments) else 0


def swap_on(path: str | Path, priority: int = PRIORITY_MAX, discard: bool = False) -> None:
    """Let the kernel swap to `path`; areas of higher priority are used first.

    With `discard` the kernel tells the device which clusters (2 MiB) have become free.
    """
    flags = DISCARD | DISCARD_FREED if discard else 0
    error = _call("swapon", path, PREFER | flags | priority)
    if error:
        raise OSError(error, f"swapon: {os.strerror(error)}", str(path))


def swap_off(path: str | Path) -> None:
    """Read back what is there and forget it. Nothing happens where `path` is not in use."""
    for _ in range(_TRIES):
        error = _call("swapoff", path)
        if error != errno.EINTR:
            break
    if error and error not in (errno.EINVAL, errno.ENOENT):
        raise OSError(error, f"swapoff: {os.strerror(error)}", str(path))


def in_use() -> list[str]:
    """Paths of the areas that are in use."""
    lines = _SWAPS.read_text().splitlines()[1:]
    return [line.split()[0] for line in lines]


@contextmanager
def changing_swap() -> Iterator[None]:
    """Only one process at a time is in such a block; others wait for their turn."""
    with _SWAPS.open() as file:
        end = time.monotonic() + _TURN_S_MAX
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise EnvironmentFailure("another benchmark uses the kernel's swap") from None
                time.sleep(0.1)
        yield
