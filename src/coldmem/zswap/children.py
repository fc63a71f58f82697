"""Forked children that may still read a swap file: when they have gone, their room is free again.

Each fork makes a pipe whose writing end only the child keeps, so the kernel tells of its end, and of
that of its own children, however they end. A program that is started by exec keeps nothing. Nobody
waits for that: who finds no room, or asks how much is used, looks, and so does every fork.

Owns: the list of open swap files, and the reading ends with the files that each holds.
Guarantees: what is in use when a child is made is not given out again while it lives. This happens in
C's own fork handlers, so a fork by C code is covered too. Where there is no pipe or no memory for it,
and where the child closes descriptors that it does not know, the room is given out: the child's
checksums tell it.
Locks: `_lock` -> `SwapFileC.lock`. Those of all files are held from before a fork until after.
"""

import cython
from cython.cimports.coldmem.linux.lock import Mutex, mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.process import (
    O_CLOEXEC,
    POLLIN,
    pipe2,
    poll,
    pollfd,
    pthread_atfork,
)
from cython.cimports.coldmem.zswap.swapcore import SwapFileP
from cython.cimports.coldmem.zswap.swaphold import swap_hold, swap_let_go
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.posix.unistd import close

_lock = cython.declare(Mutex)
_files = cython.declare(SwapFileP, cython.NULL)  # through next
_living = cython.declare(ChildP, cython.NULL)
_fresh = cython.declare(ChildP, cython.NULL)  # while a fork is under way


def children_watch(f):
    global _files
    mutex_lock(cython.address(_lock))
    f.next = _files
    _files = f
    mutex_unlock(cython.address(_lock))


def children_forget(f):
    global _files
    at: SwapFileP
    c: ChildP
    i: uint32_t
    mutex_lock(cython.address(_lock))
    at = _files
    if at == f:
        _files = f.next
    while at != cython.NULL:
        if at.next == f:
            at.next = f.next
        at = at.next
    c = _living
    while c != cython.NULL:
        for i in range(c.n):
            if c.files[i] == f:
                c.files[i] = cython.NULL
        c = c.next
    mutex_unlock(cython.address(_lock))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_gone(c: ChildP) -> cython.bint:
    end: pollfd
    end.fd = c.reading
    end.events = POLLIN
    end.revents = 0
    return poll(cython.address(end), 1, 0) == 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _look() -> cython.void:
    global _living
    c: ChildP = _living
    next_: ChildP
    i: uint32_t
    _living = cython.NULL
    while c != cython.NULL:
        next_ = c.next
        if _is_gone(c):
            for i in range(c.n):
                if c.files[i] != cython.NULL:
                    swap_let_go(c.files[i])
            close(c.reading)
            free(c)
        else:
            c.next = _living
            _living = c
        c = next_


def children_look():
    mutex_lock(cython.address(_lock))
    _look()
    mutex_unlock(cython.address(_lock))


# -- C's fork handlers -----------------------------------------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _expect(n: uint32_t) -> ChildP:
    """A child that may read n files; NULL: it cannot be told when it ends."""
    ends: cython.int[2]
    c: ChildP = cython.cast(ChildP, malloc(cython.sizeof(Child) + n * cython.sizeof(SwapFileP)))
    if c == cython.NULL:
        return c
    if pipe2(ends, O_CLOEXEC) != 0:
        free(c)
        return cython.NULL
    c.files = cython.cast(FilesP, c + 1)
    c.n = 0
    c.reading = ends[0]
    c.writing = ends[1]
    return c


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _before() -> cython.void:
    """What is in use is held for the child."""
    global _fresh
    f: SwapFileP
    n: uint32_t = 0
    mutex_lock(cython.address(_lock))
    _look()
    f = _files
    while f != cython.NULL:
        mutex_lock(cython.address(f.lock))
        n += f.used_bytes != 0 and not f.inherited
        f = f.next
    _fresh = _expect(n) if n else cython.NULL
    f = _files if _fresh != cython.NULL else cython.NULL
    while f != cython.NULL:
        if f.used_bytes != 0 and not f.inherited:
            swap_hold(f)
            _fresh.files[_fresh.n] = f
            _fresh.n += 1
        f = f.next


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _in_parent() -> cython.void:
    global _living, _fresh
    f: SwapFileP = _files
    if _fresh != cython.NULL:
        close(_fresh.writing)
        _fresh.next = _living
        _living = _fresh
        _fresh = cython.NULL
    while f != cython.NULL:
        mutex_unlock(cython.address(f.lock))
        f = f.next
    mutex_unlock(cython.address(_lock))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _in_child() -> cython.void:
    """The writing end stays open until the child ends; the rest is the parent's."""
    global _living, _fresh
    f: SwapFileP = _files
    c: ChildP = _living
    while c != cython.NULL:  # not freed: there may be no allocator yet
        close(c.reading)
        c = c.next
    if _fresh != cython.NULL:
        close(_fresh.reading)
    _living = cython.NULL
    _fresh = cython.NULL
    while f != cython.NULL:
        # The child may read and nothing else. Transfers and punches of threads that are not here any
        # more are forgotten.
        f.inherited = 1
        f.punching = 0
        f.started = f.writes + f.reads
        mutex_init(cython.address(f.lock), False)
        f = f.next
    mutex_unlock(cython.address(_lock))


pthread_atfork(_before, _in_parent, _in_child)
