"""What a lock costs on this machine, piece by piece: the native halves of each small experiment.

Owns: the words that two threads meet at. Each method is one thread's part and returns what it saw; who
runs where is the caller's affair. Guarantees: every wait ends when the other part has run, or when
`stop` was called. Locks: `MeetingC.lock` is what is measured.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add,
    a32_load_acq,
    a32_load_rlx,
    a32_store,
    a32_store_rel,
    cpu_relax,
    futex_wait,
    futex_wake,
    now_ns,
    sched_yield,
)
from cython.cimports.coldmem.linux.lock import (
    mutex_init,
    mutex_lock,
    mutex_trylock,
    mutex_unlock,
)
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memset

GAP_LEAST_NS = cython.declare(uint64_t, 50_000)  # nothing but another thread's turn takes that long
SLEEP_NS = cython.declare(uint64_t, 20_000)  # what a waiter is given to fall asleep
WAIT_NS = cython.declare(uint64_t, 10_000_000)


def pause_for(rounds):
    """Busy, on nothing that is shared; the time it ended."""
    i: uint32_t
    for i in range(rounds):
        cpu_relax()
    return now_ns()


class Meeting:
    """Two threads and what they share."""

    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(MeetingC))
        mutex_init(cython.address(self.c.lock), False)
        self.c.holder = -1

    def _times(self, values, n):
        i: uint32_t
        return [values[i] for i in range(n)]

    def stop(self):
        """Nobody waits any longer."""
        a32_store(cython.address(self.c.stop), 1)
        futex_wake(cython.address(self.c.word), 2)

    def alone(self, rounds):
        """Nanoseconds of: a look at the clock, an atomic add, lock and unlock, a look while spinning,
        a futex call that finds another value, one that finds nobody to wake."""
        n: uint32_t = rounds
        i: uint32_t
        t: uint64_t[7]
        with cython.nogil:
            t[0] = now_ns()
            for i in range(n):
                now_ns()
            t[1] = now_ns()
            for i in range(n):
                a32_fetch_add(cython.address(self.c.word), 1)
            t[2] = now_ns()
            for i in range(n):
                mutex_lock(cython.address(self.c.lock))
                mutex_unlock(cython.address(self.c.lock))
            t[3] = now_ns()
            for i in range(n):
                a32_load_rlx(cython.address(self.c.word))
                cpu_relax()
            t[4] = now_ns()
            for i in range(n):
                futex_wait(cython.address(self.c.asleep), 1, -1)
            t[5] = now_ns()
            for i in range(n):
                futex_wake(cython.address(self.c.asleep), 1)
            t[6] = now_ns()
            a32_store(cython.address(self.c.word), 0)
        return tuple(float(t[i + 1] - t[i]) / float(n) for i in range(6))

    def ping(self, me, rounds):
        """Wait for one's turn, give it to the other by an atomic add; nanoseconds for all rounds."""
        mine: int32_t = me
        n: uint32_t = rounds
        i: uint32_t
        begin: uint64_t
        with cython.nogil:
            begin = now_ns()
            for i in range(n):
                while a32_load_acq(cython.address(self.c.turn)) & 1 != mine:
                    if a32_load_rlx(cython.address(self.c.stop)):
                        break
                a32_fetch_add(cython.address(self.c.turn), 1)
            begin = now_ns() - begin
        return begin

    def hand_over(self, me, rounds, hold, pause):
        """Take the lock again and again; times from the other's unlocking to having it, where it was
        held when first tried."""
        mine: int32_t = me
        n: uint32_t = rounds
        hold_rounds: uint32_t = hold
        pause_rounds: uint32_t = pause
        i: uint32_t
        found: uint32_t = 0
        waited: cython.bint
        gaps: uint64_t[SAMPLES]
        t: uint64_t
        with cython.nogil:
            for i in range(n):
                waited = not mutex_trylock(cython.address(self.c.lock))
                if waited:
                    mutex_lock(cython.address(self.c.lock))
                t = now_ns()
                if waited and self.c.holder != mine and self.c.holder >= 0 and found < SAMPLES:
                    gaps[found] = t - self.c.unlocked_ns
                    found += 1
                self.c.holder = mine
                self.c.unlocked_ns = pause_for(hold_rounds)
                mutex_unlock(cython.address(self.c.lock))
                pause_for(pause_rounds)
                if a32_load_rlx(cython.address(self.c.stop)):
                    break
        return self._times(gaps, found)

    def sleeper(self, rounds):
        """Sleep until woken, again and again; times from the call that wakes until this thread runs."""
        n: uint32_t = min(rounds, SAMPLES)
        i: uint32_t
        times: uint64_t[SAMPLES]
        with cython.nogil:
            for i in range(n):
                a32_store(cython.address(self.c.asleep), 1)
                while a32_load_acq(cython.address(self.c.word)) == 0:
                    futex_wait(cython.address(self.c.word), 0, WAIT_NS)
                    if a32_load_rlx(cython.address(self.c.stop)):
                        break
                times[i] = now_ns() - self.c.called_ns
                a32_store_rel(cython.address(self.c.word), 0)
                if a32_load_rlx(cython.address(self.c.stop)):
                    break
        return self._times(times, n)

    def waker(self, rounds):
        """The other half of `sleeper`: how long each call that wakes took."""
        n: uint32_t = min(rounds, SAMPLES)
        i: uint32_t
        times: uint64_t[SAMPLES]
        begin: uint64_t
        with cython.nogil:
            for i in range(n):
                while not a32_cas(cython.address(self.c.asleep), 1, 0):
                    if a32_load_rlx(cython.address(self.c.stop)):
                        break
                    cpu_relax()
                begin = now_ns()
                while now_ns() - begin < SLEEP_NS:
                    cpu_relax()
                self.c.called_ns = now_ns()
                a32_store_rel(cython.address(self.c.word), 1)
                futex_wake(cython.address(self.c.word), 1)
                times[i] = now_ns() - self.c.called_ns
                if a32_load_rlx(cython.address(self.c.stop)):
                    break
        return self._times(times, n)

    def yields(self, rounds):
        """Give up the CPU again and again; nanoseconds in all."""
        n: uint32_t = rounds
        i: uint32_t
        begin: uint64_t
        with cython.nogil:
            begin = now_ns()
            for i in range(n):
                sched_yield()
            begin = now_ns() - begin
        return begin

    def gaps(self, duration_ns):
        """Look at the clock all the time; the times for which something else ran."""
        span: uint64_t = duration_ns
        times: uint64_t[SAMPLES]
        n: uint32_t = 0
        begin: uint64_t
        last: uint64_t
        t: uint64_t
        with cython.nogil:
            begin = now_ns()
            last = begin
            while last - begin < span and n < SAMPLES:
                t = now_ns()
                if t - last > GAP_LEAST_NS:
                    times[n] = t - last
                    n += 1
                last = t
        return self._times(times, n)
