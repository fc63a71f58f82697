"""Threads that block a signal, and how to make them stop.

A thread's mask is its own, and nobody else can change it. But what runs in a signal handler can: the
kernel gives the thread back the mask that stands in the handler's context. And there is one signal
that a program with glibc cannot block, since glibc keeps it for itself (setuid() in all threads); so it
reaches threads that block "all" signals, as numexpr's workers do. Our handler for it stays in front of
glibc's from the first use on, does its one thing when it is we who sent the signal, and calls
glibc's otherwise.

Guarantees: without glibc, or where the kernel refuses, nothing is changed. A thread that sleeps in a
system call which never restarts (poll, epoll_wait, nanosleep) sees it end early, with EINTR.
The kernel's own threads of io_uring belong to no program and are left out.
Locks: none; callers see to it that only one thread at a time is in `unblock_elsewhere`.
"""

import os
import threading
import time

import cython
from cython.cimports.coldmem.linux.atomic import a32_store_rel
from cython.cimports.libc.signal import SIGBUS
from cython.cimports.libc.stdint import int32_t
from cython.cimports.libc.string import memset
from cython.cimports.posix.signal import (
    SA_ONSTACK,
    SA_RESTART,
    SA_SIGINFO,
    SIG_UNBLOCK,
    sigaddset,
    sigemptyset,
)

PATIENCE_S = 1.0
STEP_S = 0.002
_there = cython.declare(int32_t, 0)  # our handler is


def unblock_here(number):
    only: sigset_t
    sigemptyset(cython.address(only))
    sigaddset(cython.address(only), number)
    pthread_sigmask(SIG_UNBLOCK, cython.address(only), cython.NULL)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _prepare() -> cython.bint:
    """Put our handler in front, if it is not there. False: it cannot be."""
    global _there
    like: kernel_action  # one that glibc has made: it knows how to come back from a handler
    if _there:
        return True
    memset(cython.address(like), 0, cython.sizeof(kernel_action))
    if kernel_sigaction(SIGBUS, cython.NULL, cython.address(like)) != 0 or (
        kernel_sigaction(SIGNAL_NEVER_BLOCKED, cython.NULL, cython.address(unblock_next)) != 0
    ):
        return False
    if cython.cast(cython.size_t, like.handler) <= 1:
        return False
    like.handler = unblock_handler
    like.flags = (like.flags & KERNEL_RESTORER) | SA_SIGINFO | SA_RESTART | SA_ONSTACK
    like.mask = 0
    _there = kernel_sigaction(SIGNAL_NEVER_BLOCKED, cython.address(like), cython.NULL) == 0
    return _there


def blocking(number):
    """The threads that block a signal, by their ids: their names."""
    found = {}
    try:
        threads = os.listdir("/proc/self/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/self/task/{thread}/status") as file:
                fields = dict(line.partition(":")[::2] for line in file)
        except OSError:  # it has ended
            continue
        name = fields["Name"].strip()
        if fields["State"].split()[0] in "ZX" or name.startswith("iou-"):
            continue
        if int(fields["SigBlk"], 16) >> (number - 1) & 1:
            found[int(thread)] = name
    return found


def unblock_elsewhere(number):
    """Make all other threads stop blocking a signal; names of those that block it still.

    Needs a handler for SIGBUS that was set by `sigaction`.
    """
    told = set()
    end_s = time.monotonic() + PATIENCE_S
    a32_store_rel(cython.address(unblock_number), number)
    while True:
        left = blocking(number)
        left.pop(threading.get_native_id(), None)
        if not left or time.monotonic() > end_s or not _prepare():
            return sorted(left.values())
        for thread in left.keys() - told:
            told.add(thread)
            signal_thread(thread, SIGNAL_NEVER_BLOCKED, cython.address(unblock_number))
        time.sleep(STEP_S)
