"""Native loops that try to break the locks of `coldmem.linux.lock`.

Owns: two counters beside a lock. Guarantees: the loops run without the GIL, so threads that call
them meet inside the lock. A lock that lets two threads in loses counts, shows somebody two values
that differ, and is reported by ThreadSanitizer: loads are atomic so that the compiler really loads,
stores are plain on purpose. With ``locked=False`` the loops take no lock, which shows that they
would notice.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_store_rlx,
    a64_load_rlx,
    cpu_relax,
    sched_yield,
)
from cython.cimports.coldmem.linux.lock import (
    LockCounts,
    mutex_counts,
    mutex_init,
    mutex_lock,
    mutex_trylock,
    mutex_unlock,
    rw_counts,
    rw_destroy,
    rw_init,
    rw_read_lock,
    rw_read_unlock,
    rw_write_lock,
    rw_write_unlock,
)
from cython.cimports.libc.stdint import int32_t, uint64_t
from cython.cimports.libc.string import memset


def both_up(pair, hold, rest):
    """Add 1 to both; in between they differ, for `hold` spins and, with `rest`, a time slice."""
    k: uint64_t
    if a64_load_rlx(cython.address(pair.first)) != a64_load_rlx(cython.address(pair.second)):
        a32_store_rlx(cython.address(pair.broken), 1)
    pair.first = a64_load_rlx(cython.address(pair.first)) + 1
    for k in range(hold):
        cpu_relax()
    if rest:
        sched_yield()  # those who wait go to sleep: the slow path and the wake are tried as well
    pair.second = a64_load_rlx(cython.address(pair.second)) + 1


def both_same(pair, hold, rest):
    """Look at both, wait as `both_up` does, look again."""
    k: uint64_t
    seen: uint64_t = a64_load_rlx(cython.address(pair.first))
    for k in range(hold):
        cpu_relax()
    if rest:
        sched_yield()
    if (a64_load_rlx(cython.address(pair.first)) != seen
            or a64_load_rlx(cython.address(pair.second)) != seen):
        a32_store_rlx(cython.address(pair.broken), 1)


def mutex_work(stress, rounds, hold):
    i: uint64_t
    for i in range(rounds):
        if stress.locked:
            mutex_lock(cython.address(stress.lock))
        both_up(cython.address(stress.pair), hold, i & 255 == 0)
        if stress.locked:
            mutex_unlock(cython.address(stress.lock))


def mutex_try_work(stress, rounds):
    """Only tries: how often it got in."""
    i: uint64_t
    won: uint64_t = 0
    for i in range(rounds):
        if mutex_trylock(cython.address(stress.lock)):
            both_up(cython.address(stress.pair), 0, False)
            won += 1
            mutex_unlock(cython.address(stress.lock))
    return won


def read_work(stress, rounds, hold):
    i: uint64_t
    line: int32_t = 0
    for i in range(rounds):
        if stress.locked:
            line = rw_read_lock(cython.address(stress.lock))
        both_same(cython.address(stress.pair), hold, i & 255 == 0)
        if stress.locked:
            # After the rest often from another CPU: it hands back the line that it took.
            rw_read_unlock(cython.address(stress.lock), line)


def write_work(stress, rounds, hold):
    i: uint64_t
    for i in range(rounds):
        if stress.locked:
            rw_write_lock(cython.address(stress.lock))
        both_up(cython.address(stress.pair), hold, i & 63 == 0)
        if stress.locked:
            rw_write_unlock(cython.address(stress.lock))


@cython.cclass
class MutexStress:
    """A mutex and two counters that are equal whenever it is free.

    Parameters
    ----------
    counting : bool
        Whether the mutex keeps statistics.
    locked : bool
        False: the loops take no lock at all.
    """

    def __cinit__(self, counting=True, locked=True):
        self.locked = locked
        mutex_init(cython.address(self.lock), counting)

    def run(self, rounds, hold=0):
        """Take the lock `rounds` times, spin `hold` times inside."""
        r: uint64_t = rounds
        h: uint64_t = hold
        with cython.nogil:
            mutex_work(self, r, h)

    def run_trying(self, rounds):
        """Try the lock `rounds` times without waiting: how often it was free."""
        r: uint64_t = rounds
        won: uint64_t
        with cython.nogil:
            won = mutex_try_work(self, r)
        return won

    def counts(self):
        """`(acquisitions, contended, wait_ns)` as the lock counted them."""
        out: LockCounts
        memset(cython.address(out), 0, cython.sizeof(LockCounts))
        with cython.nogil:
            mutex_counts(cython.address(self.lock), cython.address(out))
        return out.acquisitions, out.contended, out.wait_ns

    def result(self):
        """`(first, second, broken)`; call it when all threads have ended."""
        return self.pair.first, self.pair.second, self.pair.broken != 0


@cython.cclass
class RwStress:
    """A reader-writer lock and two counters that are equal whenever no writer is in.

    Parameters
    ----------
    counting : bool
        Whether the lock keeps statistics.
    locked : bool
        False: the loops take no lock at all.
    """

    def __cinit__(self, counting=True, locked=True):
        self.locked = locked
        if rw_init(cython.address(self.lock), counting) != 0:
            raise MemoryError("no memory for the reader lines")

    def __dealloc__(self):
        rw_destroy(cython.address(self.lock))

    def read(self, rounds, hold=0):
        """Take the reader side `rounds` times."""
        r: uint64_t = rounds
        h: uint64_t = hold
        with cython.nogil:
            read_work(self, r, h)

    def write(self, rounds, hold=0):
        """Take the writer side `rounds` times."""
        r: uint64_t = rounds
        h: uint64_t = hold
        with cython.nogil:
            write_work(self, r, h)

    def counts(self):
        """`(acquisitions, contended, wait_ns)`, readers and writers together."""
        out: LockCounts
        memset(cython.address(out), 0, cython.sizeof(LockCounts))
        with cython.nogil:
            rw_counts(cython.address(self.lock), cython.address(out))
        return out.acquisitions, out.contended, out.wait_ns

    def result(self):
        """`(first, second, broken)`; call it when all threads have ended."""
        return self.pair.first, self.pair.second, self.pair.broken != 0
