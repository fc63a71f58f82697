"""fork, as Python sees it: the last step in the child, and a sentence where it failed.

The work itself is in child.py, in C's fork handlers. Here the child changes over to handler threads,
which only a Python that is whole again may start. `os.fork` and what is built on it (multiprocessing,
concurrent.futures, joblib) come by; `subprocess` and "spawn" start a new program and need nothing.

Owns: the set of open memories.
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from typing import Any, Final

from coldmem.memory.child import child_by_python

_open: Final[weakref.WeakSet[Any]] = weakref.WeakSet()


def watch(manager: Any) -> None:
    """From now on a fork takes this one along."""
    _open.add(manager)


def _at_exit() -> None:
    """Arrays, threads and handlers work until the process is gone: nothing is torn down under them."""
    for manager in list(_open):
        manager._keep()


def _before() -> None:
    child_by_python(True)


def _after_in_parent() -> None:
    child_by_python(False)


def _after_in_child() -> None:
    child_by_python(False)
    for manager in list(_open):
        error = 0 if manager.closed else manager._after_fork_in_child()
        if error:
            print(
                "coldmem: the arrays of this Memory cannot be used in the forked child "
                f"({os.strerror(-error)}); use the 'spawn' start method, or see `coldmem doctor`",
                file=sys.stderr,
            )


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
atexit.register(_at_exit)
