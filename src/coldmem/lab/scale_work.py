"""The loops that the scaling model is calibrated with: where one thread's time goes, seen by another.

Owns: the counters of one calibration; the pool, the slots and the payloads are an `AllocWork`'s.
Guarantees: the operations are those of lab/alloc_work.py, in the same order, with a store of where the
thread is before each part. A second thread looks at that and at a lock's word, together, now and then:
the shares of its looks are shares of time, and the working thread has no clock to read. In `turns`, two
threads work in strict turns, so that each finds what the other left but never waits for a lock.
Locks: none of its own. Reads the words of the pool's locks without taking them.
"""

import cython
from cython.cimports.coldmem.lab.alloc_work import (
    AllocP,
    alloc_drop,
    alloc_look,
    alloc_put,
    constP,
)
from cython.cimports.coldmem.lab.gate import Gate, gate_wait, next_random
from cython.cimports.coldmem.linux.atomic import (
    a32_load_acq,
    a32_load_rlx,
    a32_store_rel,
    a32_store_rlx,
    cpu_relax,
    now_ns,
)
from cython.cimports.coldmem.linux.lock import MutexP
from cython.cimports.coldmem.zsmalloc.core import LOCK_POOL, PoolP
from cython.cimports.coldmem.zsmalloc.pool import pool_index
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memset

from coldmem.errors import UsageError

PHASE_NAMES = ("loop", "malloc", "write", "read", "free")
LOCK_NAMES = ("pool", "class", "arena")
LONG_NS = cython.declare(uint64_t, 4000)  # an interruption, not a phase


def watched_put(c, a, w, slot):
    j: uint32_t = cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 20) % a.payloads_n
    n: uint32_t = cython.cast(uint32_t, a.payload_at[j + 1] - a.payload_at[j])
    p: cython.p_void = a.pools[pool_index(slot, a.pools_n)]
    a32_store_rlx(cython.address(c.phase), PHASE_MALLOC)
    h: uint64_t = a.ops.malloc(p, n)
    a32_store_rlx(cython.address(c.phase), PHASE_WRITE)
    if h == 0:
        w.failed += 1
        return
    a.ops.write(p, h, a.payload_bytes + a.payload_at[j], n)
    a.slots[slot].handle = h
    a.slots[slot].payload = j
    a32_store_rlx(cython.address(c.phase), PHASE_LOOP)


def watched_take(c, a, w, slot):
    j: uint32_t = a.slots[slot].payload
    n: uint32_t = cython.cast(uint32_t, a.payload_at[j + 1] - a.payload_at[j])
    want: constP = a.payload_bytes + a.payload_at[j]
    p: cython.p_void = a.pools[pool_index(slot, a.pools_n)]
    h: uint64_t = a.slots[slot].handle
    token: uint64_t = 0
    error: int32_t = 0
    at: constP
    a32_store_rlx(cython.address(c.phase), PHASE_READ)
    at = a.ops.read_begin(p, h, cython.address(token), cython.address(error))
    if at == cython.NULL:
        w.bad += 1
    else:
        if memcmp(at, want, 8) != 0 or memcmp(at + n - 8, want + n - 8, 8) != 0:
            w.bad += 1
        a.ops.read_end(p, h, token)
    a32_store_rlx(cython.address(c.phase), PHASE_FREE)
    if a.ops.free(p, h) != 0:
        w.bad += 1
    a.slots[slot].handle = 0
    a32_store_rlx(cython.address(c.phase), PHASE_LOOP)


def watched_loop(c, a, w, thread, g):
    base: uint32_t = thread * a.span
    slot: uint32_t
    while True:  # at least once: what a run took is divided by its operations
        slot = base + cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 8) % a.span
        if a.slots[slot].handle == 0:
            watched_put(c, a, w, slot)
        else:
            watched_take(c, a, w, slot)
        w.ops += 1
        if a32_load_acq(cython.address(g.stop)) != 0:
            break
    w.end_ns = now_ns()


def watch_locks(c, locks, kinds, n, pause_ns, g):
    """Look at the phase and at one lock after the other until the gate closes, at odd moments."""
    rng: uint64_t = 88172645463325253
    i: uint32_t = 0
    until: uint64_t
    phase: int32_t
    word: int32_t
    while a32_load_acq(cython.address(g.stop)) == 0:
        until = now_ns() + pause_ns // 2 + next_random(cython.address(rng)) % pause_ns
        while now_ns() < until:
            cpu_relax()
        # Two loads that depend on nothing go out together.
        phase = a32_load_rlx(cython.address(c.phase))
        word = a32_load_rlx(cython.address(locks[i].word))
        c.seen[kinds[i]].looks[phase] += 1
        if word != 0:
            c.seen[kinds[i]].held[phase] += 1
        i = i + 1 if i + 1 < n else 0


def clock_phase(t, phase, since):
    now: uint64_t = now_ns()
    if now - since[0] < LONG_NS:
        t.ns[phase] += now - since[0]
        t.times[phase] += 1
    since[0] = now_ns()


def turns_loop(c, a, w, me, n, ops, turn):
    """`ops` operations, each timed by parts, each after one of the other thread."""
    base: uint32_t = me * a.span
    t: cython.pointer(Turn) = cython.address(c.turns[me])
    slot: uint32_t
    i: uint32_t
    j: uint32_t
    size: uint32_t
    since: uint64_t
    h: uint64_t
    p: cython.p_void
    at: constP
    token: uint64_t
    error: int32_t = 0
    for i in range(ops):
        slot = base + cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 8) % a.span
        p = a.pools[pool_index(slot, a.pools_n)]
        h = a.slots[slot].handle
        j = a.slots[slot].payload
        if h == 0:
            j = cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 20) % a.payloads_n
        size = cython.cast(uint32_t, a.payload_at[j + 1] - a.payload_at[j])
        while n > 1 and a32_load_acq(turn) != cython.cast(int32_t, me):
            if a32_load_rlx(cython.address(a.gate.stop)):
                return
            cpu_relax()
        since = now_ns()
        if h == 0:
            h = a.ops.malloc(p, size)
            clock_phase(t, PHASE_MALLOC, cython.address(since))
            if h == 0:
                w.failed += 1
            else:
                a.ops.write(p, h, a.payload_bytes + a.payload_at[j], size)
                clock_phase(t, PHASE_WRITE, cython.address(since))
            a.slots[slot].payload = j
        else:
            token = 0
            at = a.ops.read_begin(p, h, cython.address(token), cython.address(error))
            if at == cython.NULL:
                w.bad += 1
            else:
                if memcmp(at, a.payload_bytes + a.payload_at[j], 8) != 0:
                    w.bad += 1
                a.ops.read_end(p, h, token)
            clock_phase(t, PHASE_READ, cython.address(since))
            if a.ops.free(p, h) != 0:
                w.bad += 1
            h = 0
            clock_phase(t, PHASE_FREE, cython.address(since))
        a.slots[slot].handle = h
        w.ops += 1
        if n > 1:
            a32_store_rel(turn, cython.cast(int32_t, 1 - me))


class ScaleWork:
    """An `AllocWork` that is watched, or whose two threads take turns."""

    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(WatchC))

    def __init__(self, work):
        self.work = work

    def fill(self, churn):
        """Fill half of every span, then do `churn` operations per slot in each."""
        a: AllocP = cython.address(self.work.c)
        rounds: uint32_t = churn * a.span
        thread: uint32_t
        i: uint32_t
        slot: uint32_t
        with cython.nogil:
            for thread in range(a.threads):
                for i in range(a.span // 2):
                    alloc_put(a, cython.address(a.workers[thread]), thread * a.span + 2 * i)
            for thread in range(a.threads):
                for i in range(rounds):
                    slot = thread * a.span + cython.cast(
                        uint32_t, next_random(cython.address(a.workers[thread].rng)) >> 8) % a.span
                    if a.slots[slot].handle == 0:
                        alloc_put(a, cython.address(a.workers[thread]), slot)
                    else:
                        alloc_look(a, cython.address(a.workers[thread]), slot)
                        alloc_drop(a, cython.address(a.workers[thread]), slot)

    def run(self, thread, gate):
        """The loop of `AllocWork.run`, with its phases shown, from the gate's opening to its closing,
        one operation at least."""
        number: uint32_t = thread
        g: Gate = gate
        if number >= self.work.c.threads:
            raise UsageError(f"thread {thread} of {self.work.c.threads}")
        with cython.nogil:
            gate_wait(cython.address(g.c))
            watched_loop(cython.address(self.c), cython.address(self.work.c),
                         cython.address(self.work.c.workers[number]), number, cython.address(g.c))

    def watch(self, classes, pause_ns, gate):
        """Look at the locks of the pools, and at those of these classes, until the gate closes."""
        a: AllocP = cython.address(self.work.c)
        pause: uint64_t = pause_ns
        g: Gate = gate
        n: uint32_t = 0
        i: uint32_t
        one: uint32_t
        p: PoolP
        locks: cython.pointer(MutexP) = cython.cast(
            cython.pointer(MutexP), calloc(a.pools_n * (2 + len(classes)), cython.sizeof(MutexP)))
        kinds: cython.pointer(int32_t) = cython.cast(
            cython.pointer(int32_t), calloc(a.pools_n * (2 + len(classes)), 4))
        try:
            if locks == cython.NULL or kinds == cython.NULL:
                raise MemoryError("no memory for the list of locks")
            for i in range(a.pools_n):
                p = cython.cast(PoolP, a.pools[i])  # arms of zsmalloc alone are calibrated
                locks[n] = cython.address(p.arena.lock)
                kinds[n] = 2
                n += 1
                if p.locking == LOCK_POOL:
                    locks[n] = cython.address(p.lock)
                    n += 1
                    continue
                for index in classes:
                    one = index
                    if one >= p.slots:
                        raise UsageError(f"class {index} of {p.slots}")
                    locks[n] = cython.address(p.classes[one].lock)
                    kinds[n] = 1
                    n += 1
            with cython.nogil:
                gate_wait(cython.address(g.c))
                watch_locks(cython.address(self.c), locks, kinds, n, pause, cython.address(g.c))
        finally:
            free(locks)
            free(kinds)

    def seen(self):
        """Per kind of lock and phase: (looks, looks at which it was held)."""
        kind: cython.int
        phase: cython.int
        return {
            LOCK_NAMES[kind]: {
                PHASE_NAMES[phase]: (self.c.seen[kind].looks[phase], self.c.seen[kind].held[phase])
                for phase in range(PHASES)
            }
            for kind in range(WATCHED)
        }

    def turns(self, thread, threads, ops, leader):
        """`ops` operations of this thread; with 2 threads each after one of the other, and the word that
        says whose turn it is is that of `leader` (`self`, or another one with a pool of its own)."""
        me: uint32_t = thread
        n: uint32_t = threads
        count: uint32_t = ops
        first: ScaleWork = leader
        if not 1 <= n <= 2 or me >= n or n > self.work.c.threads:
            raise UsageError(f"thread {thread} of {threads}: one or two take turns")
        with cython.nogil:
            turns_loop(cython.address(self.c), cython.address(self.work.c),
                       cython.address(self.work.c.workers[me]), me, n, count,
                       cython.address(first.c.turn))

    def read_from(self, other):
        """Write the payloads that `other` writes, from the same memory: both must have been given equal
        ones. Two copies of them would take up twice the cache."""
        first: ScaleWork = other
        self.source = first.work
        self.work.c.payload_bytes = first.work.c.payload_bytes

    def forget_turns(self):
        """Begin to count anew what turns took."""
        memset(cython.address(self.c.turns), 0, cython.sizeof(self.c.turns))

    def turn_ns(self):
        """Mean nanoseconds of each phase over both threads, interruptions left out."""
        phase: cython.int
        out = {}
        for phase in range(1, PHASES):
            times = self.c.turns[0].times[phase] + self.c.turns[1].times[phase]
            total = self.c.turns[0].ns[phase] + self.c.turns[1].ns[phase]
            out[PHASE_NAMES[phase]] = total / times if times else 0.0
        return out
