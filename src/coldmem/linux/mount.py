"""Mounts: make one, take it away. Owns nothing, takes no locks. No policy."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)
NOSUID, NODEV, NOEXEC = 2, 4, 8
FORCE, DETACH = 1, 2


def _call(function: object, *arguments: object) -> None:
    if function(*arguments) != 0:  # type: ignore[operator]
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    """mount(2). OSError where the kernel refuses."""
    _call(_libc.mount, source.encode(), os.fsencode(target), kind.encode(),
          ctypes.c_ulong(flags), options.encode())


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2). `FORCE` ends a file system's server connection, `DETACH` takes it out of sight."""
    _call(_libc.umount2, os.fsencode(target), ctypes.c_int(flags))
