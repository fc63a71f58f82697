"""SIGBUS: our handler in the kernel, and behind it the one that the program believes to be there.

Owns: the process's SIGBUS action from `sigbus_take` to `sigbus_give_back`, and what the program has set
before and meanwhile.
Guarantees: a SIGBUS that is not about our memory ends as it would have without us: the program's
handler is called, or it is ignored if it was sent and not met, or the process dies of it. Between taking
and giving back no thread's fault finds another handler than ours, whoever sets one by way of sigcalls.py
(Python's own two ways, faulthandler and signal, included).
Assumes little of who goes around it, which `sigbus_take` finds out at the next Memory: then that
handler is the program's, and as it may know ours as the one to call next, the one that was the program's
until then comes after it.
Locks: whoever calls `sigbus_take` and `sigbus_give_back` holds deliver.py's `_table`. The program's
action is read and set without any, also in signal handlers: a new one is written where nobody looks,
and then `_program` says where. There is room for 63 changes while one is being read.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_acq,
    a32_store_rel,
    a64_cas,
    a64_fetch_add_rlx,
    a64_load_acq,
    a64_load_rlx,
    a64_store_rel,
)
from cython.cimports.coldmem.linux.blocked import pthread_sigmask
from cython.cimports.libc.errno import errno
from cython.cimports.libc.signal import SIG_DFL, SIG_IGN, SIGBUS, raise_
from cython.cimports.libc.stdint import int32_t, uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.signal import (
    SA_NODEFER,
    SA_RESETHAND,
    SA_SIGINFO,
    SIG_BLOCK,
    SIG_SETMASK,
    sigaction,
    sigaction_t,
    sigdelset,
    siginfo_t,
    sigismember,
)
from cython.cimports.posix.types import sigset_t

ROOM = cython.declare(uint64_t, 63)
SIGNALS = cython.declare(cython.int, 64)
_ours = cython.declare(InfoHandler)
_installed = cython.declare(int32_t, 0)
_actions = cython.declare(sigaction_t[64])  # [0]: the default
_written = cython.declare(uint64_t, 0)
_program = cython.declare(uint64_t, 0)  # index of what the program believes to be set
_around = cython.declare(uint64_t, 0)  # index of a handler that went around us; 0: none
_under = cython.declare(sigaction_t)  # what comes after that one
# The thread that is in it: by the address of its errno, which is its own.
_inside = cython.declare(uint64_t, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_plain(a: ActionP) -> cython.bint:
    """Default, or ignored: there is no function to call."""
    return a.sa_handler == SIG_DFL or a.sa_handler == SIG_IGN


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_ours(a: ActionP) -> cython.bint:
    return cython.cast(cython.p_void, a.sa_sigaction) == cython.cast(cython.p_void, _ours)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _exchange(to: ActionP, at: cython.pointer(uint64_t)) -> uint64_t:
    """Set the program's action; the index of the one before. `at` gets the index of this one."""
    was: uint64_t
    at[0] = 1 + a64_fetch_add_rlx(cython.address(_written), 1) % ROOM
    _actions[at[0]] = to[0]
    while True:
        was = a64_load_acq(cython.address(_program))
        if a64_cas(cython.address(_program), was, at[0]):
            return was


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _unmask() -> cython.void:
    """No handler of another signal is to run with SIGBUS blocked."""
    number: cython.int
    a: sigaction_t
    for number in range(1, SIGNALS + 1):
        if number == SIGBUS or sigaction(number, cython.NULL, cython.address(a)) != 0:
            continue
        if not _is_plain(cython.address(a)) and sigismember(cython.address(a.sa_mask), SIGBUS) == 1:
            sigdelset(cython.address(a.sa_mask), SIGBUS)
            sigaction(number, cython.address(a), cython.NULL)


def sigbus_take(handler):
    global _ours, _installed, _around, _under
    mine: sigaction_t
    now: sigaction_t
    at: uint64_t
    was: uint64_t
    _ours = handler
    a32_store_rel(cython.address(_installed), 1)
    memset(cython.address(mine), 0, cython.sizeof(sigaction_t))
    mine.sa_sigaction = _ours
    # A page that a served page's service touches may be missing too: the swap file's, say.
    mine.sa_flags = SA_SIGINFO | SA_NODEFER
    sigaction(SIGBUS, cython.address(mine), cython.address(now))
    if _is_ours(cython.address(now)):
        return 0
    was = _exchange(cython.address(now), cython.address(at))
    if a64_load_rlx(cython.address(_written)) > 1 and not _is_plain(cython.address(now)) and (
        cython.cast(cython.p_void, now.sa_sigaction)
        != cython.cast(cython.p_void, _actions[was].sa_sigaction)
    ):
        _under = _actions[was]
        a64_store_rel(cython.address(_around), at)
    _unmask()
    return 1


def sigbus_give_back():
    now: sigaction_t
    if not _installed:
        return
    a32_store_rel(cython.address(_installed), 0)
    sigaction(SIGBUS, cython.NULL, cython.address(now))
    if _is_ours(cython.address(now)):
        sigaction(
            SIGBUS, cython.address(_actions[a64_load_acq(cython.address(_program))]), cython.NULL)


def sigbus_taken():
    return a32_load_acq(cython.address(_installed)) != 0


def sigbus_program(to, old):
    at: uint64_t
    was: uint64_t
    if to == cython.NULL:
        was = a64_load_acq(cython.address(_program))
    elif _is_ours(to):  # somebody puts back what was found in the kernel: it stands for what is here
        was = a64_load_acq(cython.address(_program))
    else:
        was = _exchange(to, cython.address(at))
    if old != cython.NULL:
        old[0] = _actions[was]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _call(
    a: ActionP, signal: cython.int, info: cython.pointer(siginfo_t), context: cython.p_void
) -> cython.void:
    """As the kernel calls a handler, but that SIGBUS is never blocked in it."""
    more: sigset_t = a.sa_mask
    kept: sigset_t
    sigdelset(cython.address(more), SIGBUS)
    pthread_sigmask(SIG_BLOCK, cython.address(more), cython.address(kept))
    if a.sa_flags & SA_SIGINFO:
        cython.cast(InfoHandler, a.sa_sigaction)(signal, info, context)
    else:
        cython.cast(PlainHandler, a.sa_handler)(signal)
    pthread_sigmask(SIG_SETMASK, cython.address(kept), cython.NULL)


def sigbus_pass_on(signal, info, context):
    default: sigaction_t
    a: sigaction_t
    at: uint64_t = a64_load_acq(cython.address(_program))
    me: uint64_t = cython.cast(uint64_t, cython.address(errno))
    sent: cython.bint = info.si_code <= 0  # by kill or raise, not by an access
    again: cython.bint
    around: cython.bint = at != 0 and at == a64_load_acq(cython.address(_around))
    a = _actions[at]
    memset(cython.address(default), 0, cython.sizeof(sigaction_t))
    default.sa_handler = SIG_DFL
    again = around and a64_load_acq(cython.address(_inside)) == me
    if again:
        a = _under
    if _is_plain(cython.address(a)):
        if sent and a.sa_handler == SIG_IGN:
            return
        sigaction(SIGBUS, cython.address(default), cython.NULL)  # the access fails again, and ends us
        if sent:
            raise_(SIGBUS)
        return
    if a.sa_flags & SA_RESETHAND and not again:
        sigbus_program(cython.address(default), cython.NULL)
    if around:
        a64_store_rel(cython.address(_inside), me)
    _call(cython.address(a), signal, info, context)
    if around:
        a64_store_rel(cython.address(_inside), 0)
