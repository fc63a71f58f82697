"""fork: a child keeps its arrays.

The kernel does not pass a userfaultfd's registration on: without help, what is not in RAM would read as
zeros in the child. So nobody is inside when the process forks, and the child opens a userfaultfd of its
own for its copy of everything (arrays, pool, tables: copy on write). Write protection is lost with
the registration, so the child gives up the copies of clean units, which it could not tell from
changed ones.

This happens in C's own fork handlers, so a fork by C code is covered too, and the forking thread holds
Python's lock throughout: a thread that faults, and waits at the door, need not be let in by it. The
child serves itself by SIGBUS at first, which needs no thread; Python's hook (fork.py) then changes over
to handler threads where the parent had them. A child of C code keeps SIGBUS, so the functions that take
buffers (calls.py) are replaced before it is made. The child has no background threads. It reads the
parent's swap file and writes nothing to it.

Guarantees: an access in the child gives right data, or ends it: where the system refuses the child
a userfaultfd, the whole range is closed to access. Never zeros. What makes a process around these
handlers (`clone` by itself, `_Fork`) makes one that has nothing at these addresses.
Locks: the table of memories, `Zswap.admin` and all contexts of each, `Span.lock`, and `busy` of all
that is kept for NumPy, from before the fork until after.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_rlx,
    a32_store_rlx,
    a64_fetch_add_rlx,
    a64_load_rlx,
    a64_store_rel,
)
from cython.cimports.coldmem.linux.blocked import unblock_here
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.memory import memory_forbid, memory_inherit
from cython.cimports.coldmem.linux.process import pthread_atfork
from cython.cimports.coldmem.linux.userfaultfd import uffd_open, uffd_register
from cython.cimports.coldmem.memory.calls import calls_watch
from cython.cimports.coldmem.memory.deliver import (
    MEMORIES_MAX,
    deliver_lock,
    deliver_memory,
    deliver_unlock,
    install,
)
from cython.cimports.coldmem.memory.region import region_bytes
from cython.cimports.coldmem.memory.spare import spares_resume, spares_stop
from cython.cimports.coldmem.memory.state import (
    AHEAD_NONE,
    CLEAN,
    RECLAIMER_NONE,
    RESIDENT,
    MemoryP,
    slot_of,
    word_state,
    word_with,
)
from cython.cimports.coldmem.zswap.context import (
    context_get,
    context_put,
    contexts_resume,
    contexts_stop,
)
from cython.cimports.coldmem.zswap.load import zswap_invalidate
from cython.cimports.coldmem.zswap.state import WorkContextP
from cython.cimports.libc.signal import SIGBUS
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.posix.unistd import close

_by_python = cython.declare(int32_t, 0)  # a fork is under way whose child Python looks after


def _adopt(m, sigbus):
    """Nobody is inside, all contexts are held. 0 or -errno."""
    u: uint64_t
    x: uint64_t
    w: WorkContextP
    error: cython.int
    clean: uint64_t = 0
    end: uint64_t = a64_load_rlx(cython.address(m.span.end))
    m.reclaimer = RECLAIMER_NONE
    m.reclaimer_runs = 0
    m.ahead_state = AHEAD_NONE
    m.ahead_runs = 0
    m.cool_runs = 0
    if m.fd >= 0:
        close(m.fd)
        m.fd = -1
    m.sigbus = sigbus
    error = uffd_open(sigbus, cython.address(m.rights))
    if error >= 0:
        m.fd = error
        error = uffd_register(m.fd, m.base, region_bytes(m))
    m.lost = error
    if error != 0:
        memory_forbid(m.base, region_bytes(m))
        return error
    contexts_resume(m.z)
    w = context_get(m.z)
    for u in range(end):
        x = a64_load_rlx(cython.address(m.words[u]))
        if word_state(x) == CLEAN:
            zswap_invalidate(m.z, slot_of(m, u), w)
            clean += 1
        if word_state(x) == CLEAN or word_state(x) == RESIDENT:
            a64_store_rel(cython.address(m.words[u]), word_with(x, RESIDENT))
    a64_fetch_add_rlx(cython.address(m.clean_units), -clean)
    context_put(m.z, w)
    contexts_stop(m.z)
    return 0


def child_use_handlers(m):
    error: cython.int
    mutex_lock(cython.address(m.z.admin))
    contexts_stop(m.z)
    error = _adopt(m, False)
    contexts_resume(m.z)
    mutex_unlock(cython.address(m.z.admin))
    return error


def child_by_python(is_so: bool) -> None:
    """Before and after a fork that calls Python's own hooks."""
    a32_store_rlx(cython.address(_by_python), is_so)


# -- C's fork handlers -----------------------------------------------------------------------------
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_any() -> cython.bint:
    i: uint32_t
    some: cython.bint = False
    deliver_lock()
    for i in range(MEMORIES_MAX):
        some = some or deliver_memory(i) != cython.NULL
    deliver_unlock()
    return some


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _before() -> cython.void:
    i: uint32_t
    m: MemoryP
    if not a32_load_rlx(cython.address(_by_python)) and _is_any():
        calls_watch()  # it may wait for a thread that loads a module, and touches an array meanwhile
    deliver_lock()
    for i in range(MEMORIES_MAX):
        m = deliver_memory(i)
        if m != cython.NULL:
            mutex_lock(cython.address(m.z.admin))
            contexts_stop(m.z)
            mutex_lock(cython.address(m.span.lock))  # taken without a context, too
            memory_inherit(m.base, region_bytes(m), True)
    spares_stop()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _release() -> cython.void:
    i: uint32_t
    m: MemoryP
    spares_resume()
    for i in range(MEMORIES_MAX):
        m = deliver_memory(i)
        if m != cython.NULL:
            memory_inherit(m.base, region_bytes(m), False)
            mutex_unlock(cython.address(m.span.lock))
            contexts_resume(m.z)
            mutex_unlock(cython.address(m.z.admin))
    deliver_unlock()


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _in_child() -> cython.void:
    i: uint32_t
    m: MemoryP
    some: cython.bint = False
    for i in range(MEMORIES_MAX):
        m = deliver_memory(i)
        if m != cython.NULL:
            some = True
            _adopt(m, True)
    if some:
        install()
        unblock_here(SIGBUS)
    _release()


pthread_atfork(_before, _release, _in_child)
