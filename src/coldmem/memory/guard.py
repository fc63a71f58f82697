"""Keeps our SIGBUS handler in front of what Python code sets while a Memory needs it.

`faulthandler.enable` and `signal.signal` replace the handler of a signal. While a Memory with delivery
"sigbus" is open they are wrapped: what they set is put behind ours (sigbus.py says how it is called).
`faulthandler.disable` would take ours away for a moment, so it only makes faulthandler silent, until
the last Memory is closed.

Limits. Between their setting of a handler and ours there are microseconds in which another thread's
fault finds theirs. faulthandler's then prints a traceback that means nothing, and the access is served
all the same; a Python handler may be called once for nothing; ``signal.signal(SIGBUS, SIG_DFL)`` is
for when no other thread touches arrays. A reference to one of these functions that was taken before
the Memory was opened goes around us, and so does C code that calls sigaction: let such code run first.
Locks: `_lock` for the count of memories.
"""

from __future__ import annotations

import faulthandler
import functools
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import IO, Any, Final

from coldmem.memory.deliver import reinstall
from coldmem.memory.sigbus import changing, swallowed

WAIT_S = 5.0
SETTLE_S = 0.05

_lock: Final = threading.Lock()
_held = 0
_silent = False
_nowhere: IO[bytes] | None = None
_enable: Final = faulthandler.enable
_disable: Final = faulthandler.disable
_is_enabled: Final = faulthandler.is_enabled
_signal: Final = signal.signal


@functools.wraps(faulthandler.enable)
def enable(*args: Any, **kwargs: Any) -> None:
    global _silent
    if _is_enabled():
        _enable(*args, **kwargs)  # it changes where the traceback goes, and no handler
        _silent = False
        return
    before = swallowed()
    changing(True)
    try:
        _enable(*args, **kwargs)
        taken = reinstall()
        if not taken and _is_enabled():
            # A fault has run into faulthandler's handler, which is about to raise the signal for ours.
            end_s = time.monotonic() + WAIT_S
            while swallowed() == before and time.monotonic() < end_s:
                time.sleep(SETTLE_S)
            time.sleep(SETTLE_S)
    finally:
        changing(False)
    _silent = False


@functools.wraps(faulthandler.disable)
def disable() -> bool:
    global _silent, _nowhere
    if _silent or not _is_enabled():
        return False
    if _nowhere is None:
        _nowhere = open(os.devnull, "wb", buffering=0)  # noqa: SIM115 - for as long as we are silent
    _enable(file=_nowhere, all_threads=False)
    _silent = True
    return True


@functools.wraps(faulthandler.is_enabled)
def is_enabled() -> bool:
    return _is_enabled() and not _silent


@functools.wraps(signal.signal)
def set_signal(signalnum: int, handler: Any) -> Any:
    if signalnum != signal.SIGBUS:
        return _signal(signalnum, handler)
    changing(True)
    try:
        return _signal(signalnum, handler)
    finally:
        reinstall()
        changing(False)


os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]

_WRAPPED: Final[tuple[tuple[Any, str, Callable[..., Any], Callable[..., Any]], ...]] = (
    (faulthandler, "enable", _enable, enable),
    (faulthandler, "disable", _disable, disable),
    (faulthandler, "is_enabled", _is_enabled, is_enabled),
    (signal, "signal", _signal, set_signal),
)


def hold() -> None:
    """One more Memory needs SIGBUS."""
    global _held
    with _lock:
        _held += 1
        if _held == 1:
            for module, name, original, wrapper in _WRAPPED:
                if getattr(module, name) is original:
                    setattr(module, name, wrapper)


def release() -> None:
    """One fewer. With the last, the functions are the modules' own again, unless wrapped once more."""
    global _held, _silent
    with _lock:
        _held -= 1
        if _held:
            return
        for module, name, original, wrapper in _WRAPPED:
            if getattr(module, name) is wrapper:
                setattr(module, name, original)
        if _silent:
            _silent = False
            _disable()
