"""The loops of the workloads ``alloc`` and ``compact``: an allocator, and nothing else.

Owns: the slots, a `Worker` per thread, and the buffers the threads read into.
Guarantees: one operation toggles a random slot of the thread's own span: an empty slot gets an
object (malloc, write), a full one is read and freed. A read looks at both ends of the object in
place and compares them with what was written; `verify` compares every byte, so a pool that lost
data cannot score. Reading no more than that leaves the locks as the work.
With a fixed number of operations the final state depends on the seed, the number of threads and
the number of operations alone, not on the arm: `verify` returns a hash of it. `phase` does one kind
of operation to all slots instead, so that each can be timed alone.
Assumes: payloads of at least 16 bytes. Everything between the first line of `run` and its last is
without the GIL. Takes no locks of its own: threads share nothing but the pool and the gate.
"""

import math
import zlib

import cython
from cython.cimports.coldmem.lab.allocators import Allocators
from cython.cimports.coldmem.lab.gate import gate_wait, hist_bucket, next_random
from cython.cimports.coldmem.linux.atomic import a32_load_acq, now_ns
from cython.cimports.coldmem.zsmalloc.pool import pool_index
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcmp, memset
from cython.cimports.posix.stdlib import posix_memalign
from cython.cimports.posix.unistd import usleep

from coldmem.errors import InternalError, UsageError

COMPILER = COMPILER_TEXT.decode()
PHASES = ("put", "read", "free")

OPS_PER_LOOK = cython.declare(cython.uint, 32)  # operations between two looks at the stop flag
IDLE_US = cython.declare(cython.uint, 500)  # pause of a compactor that finds nothing to do
SEED = cython.declare(uint64_t, 88172645463325253)
NO_OPS_LIMIT = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)


def alloc_put(a, w, slot):
    """Fill an empty slot; False when the pool has no room."""
    j: uint32_t = cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 20) % a.payloads_n
    n: uint32_t = cython.cast(uint32_t, a.payload_at[j + 1] - a.payload_at[j])
    p: cython.p_void = a.pools[pool_index(slot, a.pools_n)]
    h: uint64_t = a.ops.malloc(p, n)
    if h == 0:
        w.failed += 1
        return False
    a.ops.write(p, h, a.payload_bytes + a.payload_at[j], n)
    a.slots[slot].handle = h
    a.slots[slot].payload = j
    return True


def alloc_look(a, w, slot):
    """Look at both ends of a full slot, in place as a decompressor reads it."""
    j: uint32_t = a.slots[slot].payload
    n: uint32_t = cython.cast(uint32_t, a.payload_at[j + 1] - a.payload_at[j])
    want: constP = a.payload_bytes + a.payload_at[j]
    p: cython.p_void = a.pools[pool_index(slot, a.pools_n)]
    h: uint64_t = a.slots[slot].handle
    token: uint64_t = 0
    error: int32_t = 0
    t: uint64_t = 0
    if a.timed:
        t = now_ns()
    at: constP = a.ops.read_begin(p, h, cython.address(token), cython.address(error))
    if at == cython.NULL:
        w.bad += 1
    else:
        if memcmp(at, want, 8) != 0 or memcmp(at + n - 8, want + n - 8, 8) != 0:
            w.bad += 1
        a.ops.read_end(p, h, token)
    if a.timed:
        w.reads_by_time[hist_bucket(now_ns() - t)] += 1


def alloc_drop(a, w, slot):
    """Free the object of a full slot."""
    if a.ops.free(a.pools[pool_index(slot, a.pools_n)], a.slots[slot].handle) != 0:
        w.bad += 1
    a.slots[slot].handle = 0


def alloc_phase(a, w, thread, what):
    """One kind of operation on each slot of the thread: `PHASES` counts them."""
    base: uint32_t = thread * a.span
    slot: uint32_t
    i: uint32_t
    w.ops = 0
    for i in range(a.span):
        slot = base + cython.cast(uint32_t, cython.cast(uint64_t, i) * a.stride % a.span)
        if what == 0:
            if not alloc_put(a, w, slot):
                continue
        elif a.slots[slot].handle == 0:
            continue
        elif what == 1:
            alloc_look(a, w, slot)
        else:
            alloc_drop(a, w, slot)
        w.ops += 1
    w.end_ns = now_ns()


def alloc_loop(a, w, thread, ops_max):
    base: uint32_t = thread * a.span
    slot: uint32_t
    i: cython.uint
    while w.ops < ops_max and a32_load_acq(cython.address(a.gate.stop)) == 0:
        for i in range(OPS_PER_LOOK):
            slot = base + cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 8) % a.span
            if a.slots[slot].handle == 0:
                alloc_put(a, w, slot)
            else:
                alloc_look(a, w, slot)
                alloc_drop(a, w, slot)
        w.ops += OPS_PER_LOOK
    w.end_ns = now_ns()


def alloc_watch(a, w, thread):
    base: uint32_t = thread * a.span
    slot: uint32_t = base
    i: cython.uint
    while a32_load_acq(cython.address(a.gate.stop)) == 0:
        for i in range(OPS_PER_LOOK):
            slot = base + cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 8) % a.span
            if a.slots[slot].handle != 0:
                alloc_look(a, w, slot)
        if a.slots[slot].handle != 0:  # a new one may lie where objects move
            alloc_drop(a, w, slot)
            alloc_put(a, w, slot)
        w.ops += OPS_PER_LOOK
    w.end_ns = now_ns()


def alloc_compact(a, passes):
    """Compact whatever can be compacted until the gate closes; sleep when nothing can."""
    i: uint32_t
    busy: cython.bint
    while a32_load_acq(cython.address(a.gate.stop)) == 0:
        busy = False
        for i in range(a.pools_n):
            if a.ops.can_compact(a.pools[i]) != 0:
                a.ops.compact(a.pools[i])
                busy = True
        passes[0] += 1
        if not busy:
            usleep(IDLE_US)


def _stride(span):
    """A step that visits every one of `span` slots, neighbours far apart."""
    step = max(1, int(span * 0.618))
    while math.gcd(step, span) != 1:
        step += 1
    return step


class AllocWork:
    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(AllocC))

    def __init__(self, pool, payloads, gate, threads, slots, timed=False, seed=1):
        # payloads: a sequence of bytes-like objects; slots: in all, shared out to the threads
        if not payloads or min(len(x) for x in payloads) < 16:
            raise UsageError("payloads must be of 16 bytes or more")
        if threads < 1 or slots < 2 * threads:
            raise UsageError(f"{slots} slots are too few for {threads} threads")
        self.gate = gate
        self.c.gate = cython.address(self.gate.c)
        self.keep = b"".join(payloads)
        self.allocators = Allocators(pool)
        self.c.ops = self.allocators.ops
        self.c.pools = self.allocators.pools
        self.c.pools_n = self.allocators.n
        self.c.threads = threads
        self.c.timed = timed
        self.c.span = slots // threads
        self.c.stride = _stride(self.c.span)
        self.c.payloads_n = len(payloads)
        whole: constP = self.keep
        self.c.payload_bytes = whole
        self.c.payload_at = cython.cast(U64P, calloc(len(payloads) + 1, 8))
        self.c.slots = cython.cast(SlotP, calloc(self.c.span * threads, cython.sizeof(Slot)))
        p: cython.p_void = cython.NULL
        if posix_memalign(cython.address(p), 128, threads * cython.sizeof(Worker)) != 0:
            raise MemoryError("no memory for the worker threads")
        memset(p, 0, threads * cython.sizeof(Worker))
        self.c.workers = cython.cast(WorkerP, p)
        if self.c.payload_at == cython.NULL or self.c.slots == cython.NULL:
            raise MemoryError("no memory for the slots")
        at = 0
        for j, payload in enumerate(payloads):
            at += len(payload)
            self.c.payload_at[j + 1] = at
        i: cython.int
        for i in range(threads):
            self.c.workers[i].rng = (SEED * cython.cast(uint64_t, seed * 1000 + i + 3)) | 1

    def __dealloc__(self):
        free(self.c.payload_at)
        free(self.c.slots)
        free(self.c.workers)

    def run(self, thread, ops_max=None):
        """Fill half of the thread's span, wait for the gate, then work until it closes."""
        number: uint32_t = thread
        limit: uint64_t = NO_OPS_LIMIT if ops_max is None else ops_max
        w: WorkerP
        i: uint32_t
        if number >= self.c.threads:
            raise UsageError(f"thread {thread} of {self.c.threads}")
        with cython.nogil:
            w = cython.address(self.c.workers[number])
            for i in range(self.c.span // 2):
                alloc_put(cython.address(self.c), w, number * self.c.span + 2 * i)
            gate_wait(self.c.gate)
            alloc_loop(cython.address(self.c), w, number, limit)

    def watch(self, thread):
        """Fill half of the thread's span as `run`, then read, and replace one object in 32 reads."""
        number: uint32_t = thread
        w: WorkerP
        i: uint32_t
        if number >= self.c.threads:
            raise UsageError(f"thread {thread} of {self.c.threads}")
        with cython.nogil:
            w = cython.address(self.c.workers[number])
            for i in range(self.c.span // 2):
                alloc_put(cython.address(self.c), w, number * self.c.span + 2 * i)
            gate_wait(self.c.gate)
            alloc_watch(cython.address(self.c), w, number)

    def phase(self, what, thread, gate):
        """Wait for `gate`, then do `what` of `PHASES` to each slot of the thread.

        Slots are visited in an order that is not that of memory. `totals` then counts this phase.
        """
        if what not in PHASES:
            raise UsageError(f"no phase is called {what!r}; there are {', '.join(PHASES)}")
        start: Gate = gate
        number: uint32_t = thread
        kind: uint32_t = PHASES.index(what)
        w: WorkerP
        if number >= self.c.threads:
            raise UsageError(f"thread {thread} of {self.c.threads}")
        with cython.nogil:
            w = cython.address(self.c.workers[number])
            gate_wait(cython.address(start.c))
            alloc_phase(cython.address(self.c), w, number, kind)

    def compactor(self):
        """Compact until the gate closes; number of rounds over the pools."""
        passes: uint64_t = 0
        with cython.nogil:
            gate_wait(self.c.gate)
            alloc_compact(cython.address(self.c), cython.address(passes))
        return passes

    def totals(self):
        """Sums over the threads, after they ended."""
        ops = bad = failed = end_ns = 0
        i: uint32_t
        for i in range(self.c.threads):
            ops += self.c.workers[i].ops
            bad += self.c.workers[i].bad
            failed += self.c.workers[i].failed
            end_ns = max(end_ns, self.c.workers[i].end_ns)
        return {"ops": ops, "bad_reads": bad, "failed": failed, "end_ns": end_ns}

    def read_times(self):
        """Histogram of read times over all threads, one count per bucket."""
        counts = [0] * HIST_BUCKETS
        i: uint32_t
        b: cython.int
        for i in range(self.c.threads):
            for b in range(HIST_BUCKETS):
                counts[b] += self.c.workers[i].reads_by_time[b]
        return counts

    def verify(self):
        """Compare every byte of every live object: (objects, payload bytes, hash of the state)."""
        slot: uint32_t
        j: uint32_t
        n: uint32_t
        p: cython.p_void
        at: constP
        token: uint64_t = 0
        error: int32_t = 0
        same: cython.bint
        objects = stored = 0
        state = 0
        for slot in range(self.c.span * self.c.threads):
            if self.c.slots[slot].handle == 0:
                continue
            j = self.c.slots[slot].payload
            n = cython.cast(uint32_t, self.c.payload_at[j + 1] - self.c.payload_at[j])
            p = self.c.pools[pool_index(slot, self.c.pools_n)]
            at = self.c.ops.read_begin(
                p, self.c.slots[slot].handle, cython.address(token), cython.address(error)
            )
            same = at != cython.NULL and (
                memcmp(at, self.c.payload_bytes + self.c.payload_at[j], n) == 0
            )
            if at != cython.NULL:
                self.c.ops.read_end(p, self.c.slots[slot].handle, token)
            if not same:
                raise InternalError(f"slot {slot} does not hold what was written (error {error})")
            objects += 1
            stored += n
            state = zlib.crc32(b"%d:%d;" % (slot, j), state)
        return objects, stored, f"{state:08x}"

    def handle(self, slot):
        """Handle of the object in a slot, 0 when it is empty."""
        number: uint32_t = slot
        if number >= self.c.span * self.c.threads:
            raise UsageError(f"slot {slot} of {self.c.span * self.c.threads}")
        return self.c.slots[number].handle

    def clear(self):
        """Free every live object."""
        slot: uint32_t
        for slot in range(self.c.span * self.c.threads):
            if self.c.slots[slot].handle != 0:
                self.c.ops.free(
                    self.c.pools[pool_index(slot, self.c.pools_n)], self.c.slots[slot].handle
                )
                self.c.slots[slot].handle = 0
