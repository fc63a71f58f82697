"""The loop of the workload ``zswap``: store, load and invalidate, with the memory limit biting.

Owns: which unit each slot holds, a `SwapWorker` per thread, the buffers loaded into.
Guarantees: one operation toggles a random slot of the thread's own span: an empty slot is stored, a
full one is loaded and invalidated. Each load is compared with what was stored (both ends while
running, every byte in `verify`). With a fixed number of operations and no refused store the final
state, and the hash that `verify` returns, depend on the seed, the threads and the operations alone.
Assumes: units of one length, or payloads of at least 16 bytes that are compressed already.
The loop is without the GIL. Takes no locks of its own.
"""

import zlib

import cython
from cython.cimports.coldmem.lab.gate import gate_wait, hist_bucket, next_random
from cython.cimports.coldmem.linux.atomic import a32_load_acq, now_ns
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.load import zswap_invalidate, zswap_load
from cython.cimports.coldmem.zswap.state import GROUP_ROOT, WorkContextP
from cython.cimports.coldmem.zswap.store import zswap_store, zswap_store_compressed
from cython.cimports.coldmem.zswap.zswap import Zswap
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcmp, memset
from cython.cimports.posix.stdlib import posix_memalign

from coldmem.errors import InternalError, UsageError

OPS_PER_LOOK = cython.declare(cython.uint, 16)  # operations between two looks at the stop flag
SEED = cython.declare(uint64_t, 88172645463325253)
NO_OPS_LIMIT = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)


def swap_put(a, w, slot):
    j: uint32_t = cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 20) % a.units_n
    n: uint32_t = cython.cast(uint32_t, a.unit_at[j + 1] - a.unit_at[j])
    done: int32_t = -1
    x: WorkContextP = context_get(a.zswap)
    if x != cython.NULL:
        if a.compressed:
            done = zswap_store_compressed(
                a.zswap, slot, a.unit_data + a.unit_at[j], n, GROUP_ROOT, x
            )
        else:
            done = zswap_store(a.zswap, slot, a.unit_data + a.unit_at[j], GROUP_ROOT, x)
        context_put(a.zswap, x)
    if done == 0:
        a.held[slot] = j + 1
    else:
        w.failed += 1


def swap_take(a, w, slot, out):
    j: uint32_t = a.held[slot] - 1
    n: uint32_t = cython.cast(uint32_t, a.unit_at[j + 1] - a.unit_at[j])
    want: constP = a.unit_data + a.unit_at[j]
    got: int32_t = -1
    t: uint64_t = 0
    x: WorkContextP = context_get(a.zswap)
    if x != cython.NULL:
        if a.timed:
            t = now_ns()
        got = zswap_load(a.zswap, slot, out, False, x)
        if a.timed:
            w.loads_by_time[hist_bucket(now_ns() - t)] += 1
        if not zswap_invalidate(a.zswap, slot, x):
            w.bad += 1
        context_put(a.zswap, x)
    if (got != cython.cast(int32_t, n) or memcmp(out, want, 8) != 0
            or memcmp(out + n - 8, want + n - 8, 8) != 0):
        w.bad += 1
    a.held[slot] = 0


def swap_loop(a, w, thread, ops_max, out):
    base: uint32_t = thread * a.span
    slot: uint32_t
    i: cython.uint
    while w.ops < ops_max and a32_load_acq(cython.address(a.gate.stop)) == 0:
        for i in range(OPS_PER_LOOK):
            slot = base + cython.cast(uint32_t, next_random(cython.address(w.rng)) >> 8) % a.span
            if a.held[slot] == 0:
                swap_put(a, w, slot)
            else:
                swap_take(a, w, slot, out)
        w.ops += OPS_PER_LOOK
    w.end_ns = now_ns()


class ZswapWork:
    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(SwapWorkC))

    def __init__(self, zswap, units, gate, threads, slots, compressed=False,
                 timed=False, seed=1):
        # units: a sequence of bytes-like objects, of the unit's length unless compressed
        inner: Zswap = zswap
        if not units or min(len(x) for x in units) < 16:
            raise UsageError("units must be of 16 bytes or more")
        if not compressed and {len(x) for x in units} != {inner.unit_bytes}:
            raise UsageError(f"every unit must have {inner.unit_bytes} bytes")
        if max(len(x) for x in units) > inner.unit_bytes:
            raise UsageError(f"compressed units must fit in {inner.unit_bytes} bytes")
        if threads < 1 or slots < 2 * threads:
            raise UsageError(f"{slots} slots are too few for {threads} threads")
        self.gate = gate
        self.c.gate = cython.address(self.gate.c)
        self.keep = (zswap, b"".join(units))
        self.c.zswap = inner.c
        self.c.unit_bytes = inner.unit_bytes
        self.c.compressed = compressed
        self.c.threads = threads
        self.c.timed = timed
        self.c.span = slots // threads
        self.c.units_n = len(units)
        whole: constP = self.keep[1]
        self.c.unit_data = whole
        self.c.unit_at = cython.cast(U64P, calloc(len(units) + 1, 8))
        self.c.held = cython.cast(U32P, calloc(self.c.span * threads, 4))
        p: cython.p_void = cython.NULL
        if posix_memalign(cython.address(p), 128, threads * cython.sizeof(SwapWorker)) != 0:
            raise MemoryError("no memory for the worker threads")
        memset(p, 0, threads * cython.sizeof(SwapWorker))
        self.c.workers = cython.cast(SwapWorkerP, p)
        if self.c.unit_at == cython.NULL or self.c.held == cython.NULL:
            raise MemoryError("no memory for the slots")
        at = 0
        for j, unit in enumerate(units):
            at += len(unit)
            self.c.unit_at[j + 1] = at
        i: cython.int
        for i in range(threads):
            self.c.workers[i].rng = (SEED * cython.cast(uint64_t, seed * 1000 + i + 3)) | 1

    def __dealloc__(self):
        free(self.c.unit_at)
        free(self.c.held)
        free(self.c.workers)

    def run(self, thread, ops_max=None):
        """Fill half of the thread's span, wait for the gate, then work until it closes."""
        number: uint32_t = thread
        limit: uint64_t = NO_OPS_LIMIT if ops_max is None else ops_max
        w: SwapWorkerP
        out: U8P
        i: uint32_t
        if number >= self.c.threads:
            raise UsageError(f"thread {thread} of {self.c.threads}")
        with cython.nogil:
            w = cython.address(self.c.workers[number])
            out = cython.cast(U8P, malloc(self.c.unit_bytes + 16))
            if out != cython.NULL:
                for i in range(self.c.span // 2):
                    swap_put(cython.address(self.c), w, number * self.c.span + 2 * i)
                gate_wait(self.c.gate)
                swap_loop(cython.address(self.c), w, number, limit, out)
                free(out)
        if out == cython.NULL:
            raise MemoryError("no memory for a buffer")

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
        """Histogram of load times over all threads, one count per bucket."""
        counts = [0] * HIST_BUCKETS
        i: uint32_t
        b: cython.int
        for i in range(self.c.threads):
            for b in range(HIST_BUCKETS):
                counts[b] += self.c.workers[i].loads_by_time[b]
        return counts

    def verify(self):
        """Compare every byte of every stored unit: (units, hash of the state)."""
        slot: uint32_t
        j: uint32_t
        n: uint32_t
        got: int32_t
        x: WorkContextP
        out: U8P = cython.cast(U8P, malloc(self.c.unit_bytes + 16))
        same: cython.bint
        units = 0
        state = 0
        if out == cython.NULL:
            raise MemoryError("no memory for a buffer")
        try:
            for slot in range(self.c.span * self.c.threads):
                if self.c.held[slot] == 0:
                    continue
                j = self.c.held[slot] - 1
                n = cython.cast(uint32_t, self.c.unit_at[j + 1] - self.c.unit_at[j])
                x = context_get(self.c.zswap)
                if x == cython.NULL:
                    raise InternalError("the Zswap was closed under its workload")
                got = zswap_load(self.c.zswap, slot, out, False, x)
                context_put(self.c.zswap, x)
                same = got == cython.cast(int32_t, n) and (
                    memcmp(out, self.c.unit_data + self.c.unit_at[j], n) == 0
                )
                if not same:
                    raise InternalError(f"slot {slot} does not hold what was stored ({got})")
                units += 1
                state = zlib.crc32(b"%d:%d;" % (slot, j), state)
        finally:
            free(out)
        return units, f"{state:08x}"
