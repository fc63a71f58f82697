"""The kernel's own swap: make an area, use it, stop using it.

Needs root. No policy, no locks. What fails raises OSError with the path.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PREFER = 0x8000  # flag of swapon(2): the lower bits are a priority
PRIORITY_MAX = 0x7FFF
_HEADER_OFFSET = 1024  # before it: room for a boot sector
_MAGIC = b"SWAPSPACE2"
_TRIES = 20  # of swapoff when a signal interrupts it


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


def swap_on(path: str | Path, priority: int = PRIORITY_MAX) -> None:
    """Let the kernel swap to `path`; areas of higher priority are used first."""
    error = _call("swapon", path, PREFER | priority)
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
    lines = Path("/proc/swaps").read_text().splitlines()[1:]
    return [line.split()[0] for line in lines]
