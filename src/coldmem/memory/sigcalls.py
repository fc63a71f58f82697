"""Calls about signals, where faults are delivered as signals: SIGBUS stays unblocked, and stays ours.

A thread that meets a missing page while SIGBUS is blocked is ended by the kernel. So the functions of
the C library that block signals are replaced in all modules that call them (see calls.py): they leave
SIGBUS out of what they block, in threads, for threads to be, in handlers of other signals, and while a
call waits. Who makes a thread has SIGBUS unblocked by that. `sigaction` and `signal` for SIGBUS set and
return what sigbus.py keeps for the program, and the kernel's own handler remains ours.

What is not covered: calls that a module makes by itself with the `syscall` instruction, addresses that
it has from `dlsym`, and functions that are not in `_hooks`.

Guarantees: all of them are as safe in signal handlers as the C library's. Other signals, other errors
and return values are the C library's own. While no Memory needs SIGBUS they only pass on.
Locks: none.
"""

import cython
from cython.cimports.coldmem.linux.blocked import unblock_here
from cython.cimports.coldmem.linux.plt import RTLD_DEFAULT, PltHook, dlsym, plt_hook, plt_patch
from cython.cimports.coldmem.memory.sigbus import sigbus_program, sigbus_taken
from cython.cimports.libc.signal import SIGBUS
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.signal import (
    SA_RESTART,
    SIG_UNBLOCK,
    sigaction_t,
    sigdelset,
    sigismember,
)
from cython.cimports.posix.types import sigset_t

HOOKS = cython.declare(uint32_t, 11)
_hooks = cython.declare(PltHook[11])
_attr_getsigmask = cython.declare(AttributeGetFn)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _without(mask: SetP, copy: cython.pointer(sigset_t)) -> SetP:
    """The mask, or where it would block what we need, a copy that does not."""
    if mask == cython.NULL or not sigbus_taken() or sigismember(mask, SIGBUS) != 1:
        return mask
    copy[0] = mask[0]
    sigdelset(copy, SIGBUS)
    return copy


def _pthread_sigmask(how, to, old):
    copy: sigset_t
    return cython.cast(MaskFn, _hooks[0].original)(
        how, to if how == SIG_UNBLOCK else _without(to, cython.address(copy)), old)


def _sigprocmask(how, to, old):
    copy: sigset_t
    return cython.cast(MaskFn, _hooks[1].original)(
        how, to if how == SIG_UNBLOCK else _without(to, cython.address(copy)), old)


def _attr_setsigmask(attributes, to):
    copy: sigset_t
    return cython.cast(AttributeFn, _hooks[2].original)(
        attributes, _without(to, cython.address(copy)))


def _pthread_create(thread, attributes, start, word):
    mask: sigset_t
    if sigbus_taken():
        unblock_here(SIGBUS)  # the new thread begins with our mask
        if attributes != cython.NULL and _attr_getsigmask != cython.NULL and (
            _attr_getsigmask(attributes, cython.address(mask)) == 0
            and sigismember(cython.address(mask), SIGBUS) == 1
        ):  # or with this one, which is older than the Memory
            sigdelset(cython.address(mask), SIGBUS)
            cython.cast(AttributeFn, _hooks[2].original)(
                cython.cast(cython.p_void, attributes), cython.address(mask))
    return cython.cast(CreateFn, _hooks[3].original)(thread, attributes, start, word)


def _sigaction(number, to, old):
    copy: sigaction_t
    if not sigbus_taken() or (number != SIGBUS and to == cython.NULL):
        return cython.cast(ActionFn, _hooks[4].original)(number, to, old)
    if number == SIGBUS:
        sigbus_program(to, old)
        return 0
    copy = to[0]
    sigdelset(cython.address(copy.sa_mask), SIGBUS)
    return cython.cast(ActionFn, _hooks[4].original)(number, cython.address(copy), old)


def _signal(number, handler):
    to: sigaction_t
    old: sigaction_t
    if not sigbus_taken() or number != SIGBUS:
        return cython.cast(SignalFn, _hooks[5].original)(number, handler)
    memset(cython.address(to), 0, cython.sizeof(sigaction_t))
    to.sa_handler = handler
    to.sa_flags = SA_RESTART
    sigbus_program(cython.address(to), cython.address(old))
    return cython.cast(PlainHandler, cython.cast(cython.p_void, old.sa_handler))


def _sigsuspend(mask):
    copy: sigset_t
    return cython.cast(SuspendFn, _hooks[6].original)(_without(mask, cython.address(copy)))


def _ppoll(fds, n, timeout, mask):
    copy: sigset_t
    return cython.cast(PpollFn, _hooks[7].original)(
        fds, n, timeout, _without(mask, cython.address(copy)))


def _ppoll_chk(fds, n, timeout, mask, room):
    copy: sigset_t
    return cython.cast(PpollChkFn, _hooks[8].original)(
        fds, n, timeout, _without(mask, cython.address(copy)), room)


def _pselect(n, r, w, e, timeout, mask):
    copy: sigset_t
    return cython.cast(PselectFn, _hooks[9].original)(
        n, r, w, e, timeout, _without(mask, cython.address(copy)))


def _epoll_pwait(fd, events, n, timeout, mask):
    copy: sigset_t
    return cython.cast(EpollFn, _hooks[10].original)(
        fd, events, n, timeout, _without(mask, cython.address(copy)))


def sigcalls_put(seen):
    if _hooks[0].name == cython.NULL:
        _find()
    plt_patch(_hooks, HOOKS, seen)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _find() -> cython.void:
    global _attr_getsigmask
    plt_hook(_hooks + 0, b"pthread_sigmask", cython.cast(cython.p_void, _pthread_sigmask))
    plt_hook(_hooks + 1, b"sigprocmask", cython.cast(cython.p_void, _sigprocmask))
    plt_hook(_hooks + 2, b"pthread_attr_setsigmask_np", cython.cast(cython.p_void, _attr_setsigmask))
    plt_hook(_hooks + 3, b"pthread_create", cython.cast(cython.p_void, _pthread_create))
    plt_hook(_hooks + 4, b"sigaction", cython.cast(cython.p_void, _sigaction))
    plt_hook(_hooks + 5, b"signal", cython.cast(cython.p_void, _signal))
    plt_hook(_hooks + 6, b"sigsuspend", cython.cast(cython.p_void, _sigsuspend))
    plt_hook(_hooks + 7, b"ppoll", cython.cast(cython.p_void, _ppoll))
    plt_hook(_hooks + 8, b"__ppoll_chk", cython.cast(cython.p_void, _ppoll_chk))
    plt_hook(_hooks + 9, b"pselect", cython.cast(cython.p_void, _pselect))
    plt_hook(_hooks + 10, b"epoll_pwait", cython.cast(cython.p_void, _epoll_pwait))
    _attr_getsigmask = cython.cast(
        AttributeGetFn, dlsym(RTLD_DEFAULT, b"pthread_attr_getsigmask_np"))
