"""SIGBUS: our handler in front, and behind it what the process had before and what it sets later.

Owns: the process's SIGBUS action from `sigbus_take` to `sigbus_give_back`.
Guarantees: a SIGBUS that is not about our memory ends as it would have without us. First it goes to
the handler that was set *after* ours (faulthandler's, which at its end raises the signal for the
handler before it, or Python's own), then to the one that was there *before*; where there was none,
the process dies of SIGBUS.
Assumes: what sets handlers later tells us (guard.py sees to Python's two ways). Between its call and
ours another thread's fault may run into the new handler; `_changing` makes that harmless for
faulthandler, whose handler puts ours back and raises the signal: the access is then served.
Locks: none; whoever calls `sigbus_take` and `sigbus_give_back` holds deliver.py's `_table`. Readers are
signal handlers and take no lock: `_has_later` is set after `_later`.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_acq,
    a32_store_rel,
    a64_fetch_add_rlx,
    a64_load_acq,
    a64_store_rel,
)
from cython.cimports.libc.errno import errno
from cython.cimports.libc.signal import SIG_DFL, SIG_IGN, SIGBUS, raise_
from cython.cimports.libc.stdint import int32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.signal import (
    SA_NODEFER,
    SA_SIGINFO,
    sigaction,
    sigaction_t,
    siginfo_t,
)

_ours = cython.declare(InfoHandler)
_installed = cython.declare(int32_t, 0)
_before = cython.declare(sigaction_t)  # what was there before us
_later = cython.declare(sigaction_t)  # what was set after us
_has_later = cython.declare(int32_t, 0)
_changing = cython.declare(int32_t, 0)
_swallowed = cython.declare(uint64_t, 0)  # raised signals, while changing
# The thread that is in a later handler: by the address of its errno, which is its own.
_inside = cython.declare(uint64_t, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_plain(a: cython.pointer(sigaction_t)) -> cython.bint:
    """Default, or ignored: there is no function to call."""
    return a.sa_handler == SIG_DFL or a.sa_handler == SIG_IGN


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call(
    a: cython.pointer(sigaction_t), signal: cython.int, info: cython.pointer(siginfo_t),
    context: cython.p_void,
) -> cython.void:
    if a.sa_flags & SA_SIGINFO:
        cython.cast(InfoHandler, a.sa_sigaction)(signal, info, context)
    else:
        cython.cast(PlainHandler, a.sa_handler)(signal)


def sigbus_take(handler):
    global _ours, _installed, _before, _later
    mine: sigaction_t
    now: sigaction_t
    _ours = handler
    was_installed: cython.bint = _installed
    _installed = 1
    sigaction(SIGBUS, cython.NULL, cython.address(now))
    if cython.cast(cython.p_void, now.sa_sigaction) == cython.cast(cython.p_void, _ours):
        return 0
    a32_store_rel(cython.address(_has_later), 0)
    if was_installed and not _is_plain(cython.address(now)):
        _later = now
        a32_store_rel(cython.address(_has_later), 1)
    else:
        _before = now
    memset(cython.address(mine), 0, cython.sizeof(sigaction_t))
    mine.sa_sigaction = _ours
    # A page that a served page's service touches may be missing too: the swap file's, say.
    mine.sa_flags = SA_SIGINFO | SA_NODEFER
    sigaction(SIGBUS, cython.address(mine), cython.NULL)
    return 1


def sigbus_give_back():
    global _installed
    now: sigaction_t
    sigaction(SIGBUS, cython.NULL, cython.address(now))
    if _installed and cython.cast(cython.p_void, now.sa_sigaction) == cython.cast(cython.p_void, _ours):
        sigaction(
            SIGBUS, cython.address(_later) if _has_later else cython.address(_before), cython.NULL)
        # `_before` stays: a later handler may know ours as the one to call next.
        a32_store_rel(cython.address(_has_later), 0)
        _installed = 0


def sigbus_pass_on(signal, info, context):
    default: sigaction_t
    me: uint64_t = cython.cast(uint64_t, cython.address(errno))
    sent: cython.bint = info.si_code <= 0  # by kill or raise, not by an access
    if sent and a32_load_acq(cython.address(_changing)):
        a64_fetch_add_rlx(cython.address(_swallowed), 1)
        return
    if a32_load_acq(cython.address(_has_later)) and a64_load_acq(cython.address(_inside)) != me:
        a64_store_rel(cython.address(_inside), me)
        _call(cython.address(_later), signal, info, context)
        a64_store_rel(cython.address(_inside), 0)
        return
    if not _is_plain(cython.address(_before)):
        _call(cython.address(_before), signal, info, context)
        return
    if sent and _before.sa_handler == SIG_IGN:
        return
    memset(cython.address(default), 0, cython.sizeof(sigaction_t))
    default.sa_handler = SIG_DFL
    sigaction(SIGBUS, cython.address(default), cython.NULL)  # the access fails again, and ends us
    if sent:
        raise_(SIGBUS)


def changing(on: bool) -> None:
    """Somebody is about to set SIGBUS, or has done so: meanwhile a raised SIGBUS is swallowed."""
    a32_store_rel(cython.address(_changing), 1 if on else 0)


def swallowed() -> int:
    """How many were, since the process began."""
    return a64_load_acq(cython.address(_swallowed))
