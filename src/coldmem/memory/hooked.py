"""``with memory:``: NumPy's hook set, per thread, and passed on to threads that start meanwhile.

NumPy keeps the hook in a context variable, so a new thread begins without it. While any Memory is
entered, `threading.Thread.start` gives the new thread the hook of the one that starts it, which covers
`concurrent.futures` and everything else that is built on `threading`.

Locks: `_lock` for the count of entered memories; the stack of a thread is its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final

from coldmem.errors import ClosedError
from coldmem.memory.numpy_hook import make_hook, set_hook

_lock: Final = threading.Lock()
_here: Final = threading.local()
_entered = 0
_start: Callable[[threading.Thread], None] | None = None


def _run_with(hook: Any, run: Callable[[], None]) -> Callable[[], None]:
    def body() -> None:
        before = set_hook(hook)
        _here.hook = hook
        try:
            run()
        finally:
            set_hook(before)

    return body


def _start_with_hook(thread: threading.Thread) -> None:
    hook = getattr(_here, "hook", None)
    if hook is not None and _start is not None:
        thread.run = _run_with(hook, thread.run)  # type: ignore[method-assign]
    assert _start is not None
    _start(thread)


class HookStack:
    """The ``with`` blocks of one Memory. Each thread nests its own."""

    def __init__(self, memory: Any) -> None:
        self._memory = memory

    def enter(self, threshold_bytes: int) -> None:
        """Set the hook in this thread; `leave` puts back what was there."""
        global _entered, _start
        if self._memory.closed:
            raise ClosedError("this Memory is closed")
        hook = make_hook(self._memory, threshold_bytes)
        before = set_hook(hook)
        stack = _here.__dict__.setdefault("stack", [])
        stack.append((before, getattr(_here, "hook", None)))
        _here.hook = hook
        with _lock:
            _entered += 1
            if _entered == 1:
                _start = threading.Thread.start
                threading.Thread.start = _start_with_hook  # type: ignore[assignment, method-assign]

    def leave(self) -> None:
        """Undo the last `enter` of this thread."""
        global _entered, _start
        before, outer = _here.stack.pop()
        set_hook(before)
        _here.hook = outer
        with _lock:
            _entered -= 1
            if _entered == 0 and threading.Thread.start is _start_with_hook and _start is not None:
                threading.Thread.start = _start  # type: ignore[assignment, method-assign]
