"""A C program that blocks signals and handles them, as far as tests need one.

It stands for somebody else's module: what it calls goes through its own table of the C library's
functions, which coldmem changes as it does anybody's (linux/plt.py spares the other modules of coldmem).
"""

import cython
from cython.cimports.libc.signal import SIGBUS, SIGUSR1
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.signal import (
    SIG_BLOCK,
    SIG_SETMASK,
    sigaction_t,
    sigaddset,
    sigdelset,
    sigemptyset,
    sigfillset,
    sigismember,
)
from cython.cimports.posix.types import sigset_t

_reading = cython.declare(Reading)  # of the handler
_fd = cython.declare(cython.int)
_nbytes = cython.declare(cython.long)
_repairs = cython.declare(uint64_t, 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read(r: ReadingP) -> cython.void:
    i: uint64_t
    for i in range(r.n):
        r.sum += r.at[i]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _thread(word: cython.p_void) -> cython.p_void:
    r: ReadingP = cython.cast(ReadingP, word)
    every: sigset_t
    if r.self_block:
        sigfillset(cython.address(every))
        pthread_sigmask(SIG_SETMASK, cython.address(every), cython.NULL)
    _read(r)
    return cython.NULL


def sum_in_thread(address, nbytes, how):
    """Sum of bytes, read by a thread that was made to run with all signals blocked.

    Parameters
    ----------
    address, nbytes : int
    how : {"pthread_sigmask", "sigprocmask", "attribute", "itself"}
        What blocks them: the first two around `pthread_create`.
    """
    r: Reading
    every: sigset_t
    old: sigset_t
    attributes: pthread_attr_t
    thread: pthread_t
    error: cython.int
    way: cython.int = ["pthread_sigmask", "sigprocmask", "attribute", "itself"].index(how)
    memset(cython.address(r), 0, cython.sizeof(Reading))
    r.at = cython.cast(BytesP, cython.cast(uint64_t, address))
    r.n = nbytes
    r.self_block = way == 3
    sigfillset(cython.address(every))
    pthread_attr_init(cython.address(attributes))
    with cython.nogil:
        if way == 0:
            pthread_sigmask(SIG_BLOCK, cython.address(every), cython.address(old))
        elif way == 1:
            c_sigprocmask(SIG_SETMASK, cython.address(every), cython.address(old))
        elif way == 2:
            pthread_attr_setsigmask_np(cython.address(attributes), cython.address(every))
        error = pthread_create(
            cython.address(thread), cython.address(attributes), _thread, cython.address(r))
        if way < 2:
            pthread_sigmask(SIG_SETMASK, cython.address(old), cython.NULL)
        if error == 0:
            pthread_join(thread, cython.NULL)
    pthread_attr_destroy(cython.address(attributes))
    if error:
        raise OSError(error, "pthread_create")
    return r.sum


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _on_user_signal(number: cython.int) -> cython.void:
    _read(cython.address(_reading))


def sum_in_handler(address, nbytes, how):
    """Sum of bytes, read by a handler of SIGUSR1 that runs with all other signals blocked.

    Parameters
    ----------
    address, nbytes : int
    how : {"sigaction", "set before", "sigsuspend", "ppoll", "pselect", "epoll_pwait"}
        What blocks them: the mask of the handler, that of one that is set already (and not by this
        call), or the mask of a call that waits.
    """
    every: sigset_t
    one: sigset_t
    old: sigset_t
    a: sigaction_t
    events: epoll_event
    epoll: cython.int = -1
    way: cython.int = [
        "sigaction", "set before", "sigsuspend", "ppoll", "pselect", "epoll_pwait"].index(how)
    memset(cython.address(_reading), 0, cython.sizeof(Reading))
    _reading.at = cython.cast(BytesP, cython.cast(uint64_t, address))
    _reading.n = nbytes
    sigfillset(cython.address(every))
    memset(cython.address(a), 0, cython.sizeof(sigaction_t))
    a.sa_handler = cython.cast(PlainHandler, _on_user_signal)
    if way == 0:
        a.sa_mask = every
    if way != 1:
        c_sigaction(SIGUSR1, cython.address(a), cython.NULL)
    sigemptyset(cython.address(one))
    sigaddset(cython.address(one), SIGUSR1)
    sigdelset(cython.address(every), SIGUSR1)
    if way == 5:
        epoll = epoll_create1(0)
    with cython.nogil:
        if way > 1:
            pthread_sigmask(SIG_BLOCK, cython.address(one), cython.address(old))
        c_raise(SIGUSR1)
        if way == 2:
            c_sigsuspend(cython.address(every))
        elif way == 3:
            ppoll(cython.NULL, 0, cython.NULL, cython.address(every))
        elif way == 4:
            pselect(0, cython.NULL, cython.NULL, cython.NULL, cython.NULL, cython.address(every))
        elif way == 5:
            epoll_pwait(epoll, cython.address(events), 1, -1, cython.address(every))
        if way > 1:
            pthread_sigmask(SIG_SETMASK, cython.address(old), cython.NULL)
    if epoll >= 0:
        close(epoll)
    return _reading.sum


def is_blocked(number):
    """What this thread is told of its mask."""
    mask: sigset_t
    pthread_sigmask(SIG_BLOCK, cython.NULL, cython.address(mask))
    return sigismember(cython.address(mask), number) == 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _on_sigbus(number: cython.int) -> cython.void:
    global _repairs
    _repairs += 1
    ftruncate(_fd, _nbytes)


def repair_on_sigbus(fd, nbytes, how):
    """Set a handler for SIGBUS that makes a file long enough.

    Parameters
    ----------
    fd, nbytes : int
    how : {"sigaction", "signal"}

    Returns
    -------
    bool
        Before, as the calls say, there was none.
    """
    global _fd, _nbytes
    a: sigaction_t
    old: sigaction_t
    _fd = fd
    _nbytes = nbytes
    memset(cython.address(old), 0, cython.sizeof(sigaction_t))
    if how == "signal":
        return c_signal(SIGBUS, _on_sigbus) == cython.NULL
    memset(cython.address(a), 0, cython.sizeof(sigaction_t))
    a.sa_handler = cython.cast(PlainHandler, _on_sigbus)
    c_sigaction(SIGBUS, cython.address(a), cython.address(old))
    return old.sa_handler == cython.NULL


def repairs():
    """How often that handler has run."""
    return _repairs
