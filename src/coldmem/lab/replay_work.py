"""The loop of ``lab replay``: recorded stores, loads and trims, against the engine alone.

Owns: which store each slot holds, a `ReplayWorker` per thread, the buffers.
Guarantees: each slot belongs to one thread, which does all that was recorded of it in the order of
time; so a load must give what the store before it in the trace gave, and both ends of it are compared
(all of it in `verify`). Between two rounds every slot is emptied. What each slot holds at the end
depends on the trace alone, not on the number of threads.
Without a codec a unit is `nbytes` of noise, kept as they are; with one, it is a whole unit, noise and
then one byte repeated, which an LZ codec brings to about `nbytes`.
The loop is without the GIL. Takes no locks of its own.
"""

import zlib

import cython
from cython.cimports.coldmem.lab.gate import gate_wait
from cython.cimports.coldmem.linux.atomic import a32_load_acq, now_ns
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.load import zswap_invalidate, zswap_load
from cython.cimports.coldmem.zswap.state import GROUP_ROOT, WorkContextP
from cython.cimports.coldmem.zswap.store import zswap_store, zswap_store_compressed
from cython.cimports.coldmem.zswap.zswap import Zswap
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcmp, memcpy, memset
from cython.cimports.posix.stdlib import posix_memalign

from coldmem.errors import InternalError, UsageError

STORE = cython.declare(cython.int, 0)
LOAD = cython.declare(cython.int, 1)
OPS_PER_LOOK = cython.declare(uint64_t, 16)  # operations in one taking of a working context
TOKEN_BYTES = cython.declare(uint32_t, 40)  # what the repeated byte takes with lz4, about
SAME = cython.declare(cython.int, 0x5A)


def replay_page(a, i, page):
    """The unit that operation i stores: one word, or noise and then one byte."""
    n: uint32_t = a.nbytes[i]
    noise: uint32_t
    if n == 0:
        memset(page, SAME, a.unit_bytes)
        return
    noise = n - TOKEN_BYTES if n > TOKEN_BYTES + 8 else 8
    if n >= a.unit_bytes:
        noise = a.unit_bytes
    memcpy(page, replay_noise(a, i), noise)
    memset(page + noise, SAME, a.unit_bytes - noise)


def replay_store(a, w, i, page, x):
    done: int32_t
    slot: uint32_t = a.slot[i]
    if a.coded or a.nbytes[i] == 0:
        replay_page(a, i, page)
        done = zswap_store(a.zswap, slot, page, GROUP_ROOT, x)
    else:
        done = zswap_store_compressed(
            a.zswap, slot, replay_noise(a, i), a.nbytes[i], GROUP_ROOT, x
        )
    if done == 0:
        a.held[slot] = cython.cast(uint32_t, i) + 1
    else:
        a.held[slot] = 0  # a store that fails leaves nothing
        w.failed += 1


def replay_same(a, i, out, got):
    """Whether both ends are what operation i stored."""
    n: uint32_t = a.nbytes[i]
    want: constP = replay_noise(a, i)
    if a.coded or n == 0:
        if got != cython.cast(int32_t, a.unit_bytes):
            return False
        if n == 0:
            return out[0] == SAME and out[a.unit_bytes - 1] == SAME
        return memcmp(out, want, 8) == 0
    if got != cython.cast(int32_t, n):
        return False
    if n < 8:
        return memcmp(out, want, n) == 0
    return memcmp(out, want, 8) == 0 and memcmp(out + n - 8, want + n - 8, 8) == 0


def replay_load(a, w, i, out, x):
    stored: uint32_t = a.held[a.slot[i]]
    got: int32_t
    if stored == 0:
        w.absent += 1
        return
    got = zswap_load(a.zswap, a.slot[i], out, False, x)
    if not replay_same(a, stored - 1, out, got):
        w.bad += 1


def replay_trim(a, i, x):
    zswap_invalidate(a.zswap, a.slot[i], x)
    a.held[a.slot[i]] = 0


def replay_loop(a, w, page, out):
    n: uint64_t
    i: uint64_t
    end: uint64_t
    turn: uint32_t
    x: WorkContextP
    for turn in range(2 * a.rounds - 1):  # every second one empties what the one before has left
        n = w.at
        while n < w.end and a32_load_acq(cython.address(a.gate.stop)) == 0:
            x = context_get(a.zswap)
            if x == cython.NULL:
                w.failed += w.end - n
                break
            end = min(n + OPS_PER_LOOK, w.end)
            for i in range(n, end):
                if turn & 1:
                    if a.held[a.slot[i]] != 0:
                        replay_trim(a, i, x)
                        w.ops += 1
                    continue
                if a.op[i] == STORE:
                    replay_store(a, w, i, page, x)
                elif a.op[i] == LOAD:
                    replay_load(a, w, i, out, x)
                else:
                    replay_trim(a, i, x)
                w.ops += 1
            context_put(a.zswap, x)
            n = end
    w.end_ns = now_ns()


class ReplayWork:
    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(ReplayC))

    def __init__(self, zswap, gate, op, slot, nbytes, starts, noise, rounds=1, coded=False):
        # op, slot, nbytes: flat arrays of uint8, uint32, uint32; starts: where each thread's begin
        inner: Zswap = zswap
        i: cython.int
        count: cython.Py_ssize_t = len(op)
        threads: cython.int = len(starts)
        if threads < 1 or rounds < 1 or len(slot) != count or len(nbytes) != count:
            raise UsageError("a replay needs a thread, a round, and arrays of one length")
        if count == 0 or count >= 0xFFFFFFFF or list(starts) != sorted(starts) or starts[0] != 0:
            raise UsageError("a replay needs operations, in the order of their threads")
        if int(nbytes.max()) > inner.unit_bytes or max(starts) > count:
            raise UsageError(f"units of the trace must fit in {inner.unit_bytes} bytes")
        if len(noise) < 3 * inner.unit_bytes:
            raise UsageError("noise must be of three units or more")
        self.gate = gate
        self.c.gate = cython.address(self.gate.c)
        self.keep = (zswap, op.tobytes(), slot.tobytes(), nbytes.tobytes(), noise)
        view: constP = self.keep[1]
        self.c.op = view
        view = self.keep[2]
        self.c.slot = cython.cast(cython.pointer(cython.const[uint32_t]), view)
        view = self.keep[3]
        self.c.nbytes = cython.cast(cython.pointer(cython.const[uint32_t]), view)
        view = self.keep[4]
        self.c.noise = view
        self.c.zswap = inner.c
        self.c.unit_bytes = inner.unit_bytes
        self.c.noise_units = len(noise) // inner.unit_bytes - 1
        self.c.threads = threads
        self.c.rounds = rounds
        self.c.coded = coded
        self.c.slots_n = int(slot.max()) + 1
        self.c.held = cython.cast(U32P, calloc(self.c.slots_n, 4))
        p: cython.p_void = cython.NULL
        if posix_memalign(cython.address(p), 128, threads * cython.sizeof(ReplayWorker)) != 0:
            raise MemoryError("no memory for the worker threads")
        memset(p, 0, threads * cython.sizeof(ReplayWorker))
        self.c.workers = cython.cast(ReplayWorkerP, p)
        if self.c.held == cython.NULL:
            raise MemoryError("no memory for the slots")
        for i in range(threads):
            self.c.workers[i].at = starts[i]
            self.c.workers[i].end = starts[i + 1] if i + 1 < threads else count

    def __dealloc__(self):
        free(self.c.held)
        free(self.c.workers)

    def run(self, thread):
        """Wait for the gate, then do all of the thread's operations, or until it closes."""
        number: uint32_t = thread
        page: U8P
        out: U8P
        if number >= self.c.threads:
            raise UsageError(f"thread {thread} of {self.c.threads}")
        with cython.nogil:
            page = cython.cast(U8P, malloc(2 * self.c.unit_bytes + 16))
            if page != cython.NULL:
                out = page + self.c.unit_bytes
                gate_wait(self.c.gate)
                replay_loop(
                    cython.address(self.c), cython.address(self.c.workers[number]), page, out
                )
                free(page)
        if page == cython.NULL:
            raise MemoryError("no memory for a buffer")

    def totals(self):
        """Sums over the threads, after they ended."""
        ops = bad = absent = failed = end_ns = 0
        i: uint32_t
        for i in range(self.c.threads):
            ops += self.c.workers[i].ops
            bad += self.c.workers[i].bad
            absent += self.c.workers[i].absent
            failed += self.c.workers[i].failed
            end_ns = max(end_ns, self.c.workers[i].end_ns)
        return {"ops": ops, "bad_reads": bad, "absent": absent, "failed": failed, "end_ns": end_ns}

    def verify(self):
        """Compare every byte of every stored unit: (units, hash of the state)."""
        slot: uint32_t
        stored: uint32_t
        n: uint32_t
        got: int32_t
        x: WorkContextP
        same: cython.bint
        page: U8P = cython.cast(U8P, malloc(2 * self.c.unit_bytes + 16))
        out: U8P
        units = state = 0
        if page == cython.NULL:
            raise MemoryError("no memory for a buffer")
        out = page + self.c.unit_bytes
        try:
            for slot in range(self.c.slots_n):
                stored = self.c.held[slot]
                x = context_get(self.c.zswap)
                if x == cython.NULL:
                    raise InternalError("the Zswap was closed under its workload")
                got = zswap_load(self.c.zswap, slot, out, False, x)
                context_put(self.c.zswap, x)
                if stored == 0:
                    if got >= 0:
                        raise InternalError(f"slot {slot} holds what was trimmed")
                    continue
                n = self.c.nbytes[stored - 1]
                if self.c.coded or n == 0:
                    n = self.c.unit_bytes
                    replay_page(cython.address(self.c), stored - 1, page)
                else:
                    memcpy(page, replay_noise(cython.address(self.c), stored - 1), n)
                same = got == cython.cast(int32_t, n) and memcmp(out, page, n) == 0
                if not same:
                    raise InternalError(f"slot {slot} does not hold what was stored ({got})")
                units += 1
                state = zlib.crc32(b"%d:%d;" % (slot, self.c.nbytes[stored - 1]), state)
        finally:
            free(page)
        return units, f"{state:08x}"
