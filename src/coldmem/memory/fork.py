"""fork, as Python sees it: every open Memory is told before, and adopted by the child after.

Owns: the set of open memories. Hooks run in `os.fork` and in what is built on it (multiprocessing,
concurrent.futures, joblib); `subprocess` and "spawn" start a new program and need nothing.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Any, Final

_open: Final[weakref.WeakSet[Any]] = weakref.WeakSet()
_held: list[Any] = []


def watch(manager: Any) -> None:
    """From now on a fork takes this one along."""
    _open.add(manager)


def _at_exit() -> None:
    """Arrays, threads and handlers work until the process is gone: nothing is torn down under them."""
    for manager in list(_open):
        manager._keep()


def _before() -> None:
    _held.extend(manager for manager in _open if not manager.closed)
    for manager in _held:
        manager._fork_prepare()


def _after_in_parent() -> None:
    while _held:
        _held.pop()._fork_release()


def _after_in_child() -> None:
    while _held:
        manager = _held.pop()
        error = manager._fork_adopt()
        if error:
            print(
                f"coldmem: the arrays of this Memory cannot be used in the forked child "
                f"({os.strerror(-error)}); use the 'spawn' start method, or see `coldmem doctor`",
                file=sys.stderr,
            )


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
atexit.register(_at_exit)
