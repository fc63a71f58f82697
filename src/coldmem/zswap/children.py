"""Forked children that may still read a swap file: when the last one has gone, its owner hears of it.

Each fork makes a pipe whose writing end only the child keeps, so the kernel tells of its end, and of
that of its own children, however they end. A program that is started by exec keeps nothing.

Owns: the set of open swap files, the reading ends, and one thread that waits for them while there
are any.
Locks: `_lock` for the last two.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Final

from coldmem.linux.wait import wait_readable

_lock: Final = threading.Lock()
_reading: Final[dict[int, list[Any]]] = {}
_fresh: list[tuple[int, int, list[Any]]] = []
_thread: threading.Thread | None = None
_open: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def watch(file: Any) -> None:
    """From now on forks look after this swap file."""
    _open.add(file)


def _before() -> None:
    """What is in use is held for the child."""
    files = [file for file in _open if not file.closed and file.used_bytes]
    if not files:
        return
    _fresh.append((*os.pipe(), files))
    for file in files:
        file._hold()


def _after_in_parent() -> None:
    """Wait for the child's end."""
    global _thread
    if not _fresh:
        return
    reading, writing, files = _fresh.pop()
    os.close(writing)
    with _lock:
        _reading[reading] = files
        if _thread is None:
            _thread = threading.Thread(target=_wait, name="coldmem-children", daemon=True)
            _thread.start()


def _after_in_child() -> None:
    """The writing end stays open until the child ends; the rest is the parent's."""
    global _thread
    _lock._at_fork_reinit()  # type: ignore[attr-defined]
    for reading in _reading:
        os.close(reading)
    _reading.clear()
    _thread = None
    if _fresh:
        reading, _, _ = _fresh.pop()
        os.close(reading)
    for file in _open:
        file._inherit()


def _wait() -> None:
    global _thread
    while True:
        with _lock:
            if not _reading:
                _thread = None
                return
            all_reading = list(_reading)
        # With a bound, since a fork meanwhile adds one more to wait for.
        for reading in wait_readable(all_reading, 200):
            with _lock:
                files = _reading.pop(reading)
                os.close(reading)
            for file in files:
                file._let_go()


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
