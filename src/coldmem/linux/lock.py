"""The locks of the engine: a futex mutex and a distributed reader-writer lock.

Owns: nothing; a lock lives inside the structure that it guards.
Guarantees: mutual exclusion, bounded spinning, sleep under contention; no fairness. Measurements
behind the choice: on cores outnumbered by threads, ticket, MCS and fair reader-writer locks
collapse, because each hand-over waits for a thread that is not running.
Assumes: a thread never takes a Mutex that it holds. The reader side of an RwLock may be taken on
one CPU and given back on another (the line is handed back by its number).
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add,
    a32_fetch_add_rel,
    a32_load,
    a32_load_acq,
    a32_load_rlx,
    a32_store,
    a32_xchg_acq,
    a32_xchg_rel,
    a64_fetch_add_rlx,
    a64_load_rlx,
    cpu_number,
    cpu_relax,
    cpus_configured,
    futex_wait,
    futex_wake,
    now_ns,
    sched_yield,
)
from cython.cimports.libc.stdint import int32_t, uint64_t
from cython.cimports.libc.stdlib import free
from cython.cimports.libc.string import memset
from cython.cimports.posix.stdlib import posix_memalign

SPINS = cython.declare(cython.int, 40)
MAX_LINES = cython.declare(cython.int, 256)


def mutex_init(m, counting):
    memset(m, 0, cython.sizeof(Mutex))
    m.counting = counting


def mutex_acquire(m):
    """Spin a little, then sleep; counts nothing."""
    i: cython.int
    value: int32_t
    for i in range(SPINS):
        value = a32_load_rlx(cython.address(m.word))
        if value == 2:
            break  # somebody sleeps already: the queue is long, do not burn the core
        if value == 0 and a32_cas(cython.address(m.word), 0, 1):
            return
        cpu_relax()
    # From here on the word says 2: whoever unlocks must wake. One wake too many is harmless.
    while a32_xchg_acq(cython.address(m.word), 2) != 0:
        futex_wait(cython.address(m.word), 2, -1)


def mutex_lock_slow(m):
    """Called when the first try failed."""
    t: uint64_t = now_ns() if m.counting else 0
    mutex_acquire(m)
    if m.counting:
        m.acquisitions += 1
        m.contended += 1
        m.wait_ns += now_ns() - t


def mutex_counts(m, out):
    """Add the counts of `m` to `out`. Takes the mutex, which is not counted itself."""
    mutex_acquire(m)
    out.acquisitions += m.acquisitions
    out.contended += m.contended
    out.wait_ns += m.wait_ns
    mutex_unlock(m)


def rw_init(l, counting):
    """0, or -1 when there is no memory. One reader line per configured CPU, rounded up to 2**n."""
    n: cython.int = 1
    p: cython.p_void = cython.NULL
    while n < cpus_configured() and n < MAX_LINES:
        n *= 2
    memset(l, 0, cython.sizeof(RwLock))
    mutex_init(cython.address(l.writer), counting)
    if posix_memalign(cython.address(p), 128, n * cython.sizeof(RwLine)) != 0:
        return -1
    memset(p, 0, n * cython.sizeof(RwLine))
    l.lines = cython.cast(RwLineP, p)
    l.lines_mask = n - 1
    l.counting = counting
    return 0


def rw_destroy(l):
    free(l.lines)
    l.lines = cython.NULL


def rw_read_lock_slow(l, line):
    """A writer is in, or waits: step back, wait until it is gone, try again."""
    t: uint64_t = now_ns() if l.counting else 0
    i: cython.int
    while True:
        a32_fetch_add_rel(cython.address(l.lines[line].readers), -1)
        i = 0
        while a32_load_acq(cython.address(l.closed)) != 0:
            i += 1
            if i > SPINS:
                a32_cas(cython.address(l.closed), 1, 2)
                futex_wait(cython.address(l.closed), 2, -1)
            else:
                cpu_relax()
        line = cython.cast(int32_t, cpu_number()) & l.lines_mask
        a32_fetch_add(cython.address(l.lines[line].readers), 1)
        if a32_load(cython.address(l.closed)) == 0:
            break
    if l.counting:
        a64_fetch_add_rlx(cython.address(l.lines[line].acquisitions), 1)
        a64_fetch_add_rlx(cython.address(l.lines[line].contended), 1)
        a64_fetch_add_rlx(cython.address(l.lines[line].wait_ns), now_ns() - t)
    return line


def rw_write_lock(l):
    """Close the door, then wait for each reader line to empty. Readers hold it for nanoseconds."""
    t: uint64_t = 0
    i: cython.int
    line: int32_t
    contended: cython.bint = False  # counts once, whatever it waited for
    if not mutex_trylock(cython.address(l.writer)):
        mutex_lock_slow(cython.address(l.writer))
        contended = True
    a32_store(cython.address(l.closed), 1)
    for line in range(l.lines_mask + 1):
        i = 0
        while a32_load(cython.address(l.lines[line].readers)) != 0:
            if l.counting and t == 0:
                t = now_ns()
            i += 1
            if i & 63 == 0:
                sched_yield()
            cpu_relax()
    if t:
        if not contended:
            l.writer.contended += 1
        l.writer.wait_ns += now_ns() - t


def rw_write_unlock(l):
    if a32_xchg_rel(cython.address(l.closed), 0) == 2:
        futex_wake(cython.address(l.closed), 0x7FFFFFFF)
    mutex_unlock(cython.address(l.writer))


def rw_counts(l, out):
    """Add reader and writer counts to `out`; readers are summed while they run."""
    line: int32_t
    mutex_counts(cython.address(l.writer), out)
    for line in range(l.lines_mask + 1):
        out.acquisitions += a64_load_rlx(cython.address(l.lines[line].acquisitions))
        out.contended += a64_load_rlx(cython.address(l.lines[line].contended))
        out.wait_ns += a64_load_rlx(cython.address(l.lines[line].wait_ns))
