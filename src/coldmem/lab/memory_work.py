"""The loops of ``bench memory``: threads that touch the pages of a region, each touch timed.

Owns: how often each page was written, and a `TouchWorker` per thread; never the region.
Guarantees: what a page must hold is known at any time: the corpus, but its first word is the page's
number plus how often it was incremented. So a page that is lost, stale or in another's place shows.
Reads look at that word; `verify` compares every byte. A touch is one access of eight bytes (a copy of
the whole page for `fill`); one that takes longer than 2 µs counts as a fault. Sequential patterns
split the region among the threads; random ones have all threads everywhere. The hot set is one
stretch of a tenth of the pages, a third into the region.
The loops are without the GIL. Takes no locks; what threads share is atomic.
"""

import cython
from cython.cimports.coldmem.lab.gate import Gate, gate_wait, hist_bucket, next_random
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx, a64_load_rlx, now_ns
from cython.cimports.coldmem.linux.memory import memory_release, memory_reserve
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcmp, memcpy, memset

from coldmem.errors import UsageError

FAULT_NS = cython.declare(uint64_t, 2000)
HOT_SHARE = cython.declare(uint64_t, 10)  # one page in so many is hot
COLD_TOUCHES = cython.declare(uint64_t, 10)  # one touch in so many goes anywhere
SEED = cython.declare(uint64_t, 88172645463325253)
WORD_BYTES = cython.declare(uint64_t, 8)
NAMES = ("fill", "sequential", "random", "random_write", "rewrite", "hot_set")


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _count(w: TouchWorkerP, ns: uint64_t) -> cython.void:
    w.touches += 1
    w.ns += ns
    if ns > FAULT_NS:
        w.faults += 1
        w.faults_by_time[hist_bucket(ns)] += 1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _read(a: TouchP, w: TouchWorkerP, page: uint64_t) -> cython.void:
    p: U64P = cython.cast(U64P, a.base + page * PAGE_BYTES)
    t: uint64_t = now_ns()
    x: uint64_t = a64_load_rlx(p)
    _count(w, now_ns() - t)
    if x != page + a64_load_rlx(cython.address(a.written[page])):
        w.bad += 1


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _write(a: TouchP, w: TouchWorkerP, page: uint64_t) -> cython.void:
    p: U64P = cython.cast(U64P, a.base + page * PAGE_BYTES)
    t: uint64_t = now_ns()
    a64_fetch_add_rlx(p, 1)
    _count(w, now_ns() - t)
    a64_fetch_add_rlx(cython.address(a.written[page]), 1)


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _fill(a: TouchP, w: TouchWorkerP, page: uint64_t) -> cython.void:
    p: U8P = a.base + page * PAGE_BYTES
    t: uint64_t = now_ns()
    memcpy(p, a.corpus + page % a.corpus_pages * PAGE_BYTES, PAGE_BYTES)
    cython.cast(U64P, p)[0] = page
    _count(w, now_ns() - t)


def touch_loop(a, w, thread):
    first: uint64_t = a.pages * thread // a.threads
    last: uint64_t = a.pages * (thread + 1) // a.threads
    hot_first: uint64_t = a.pages // 3
    hot: uint64_t = a.pages // HOT_SHARE
    i: uint64_t
    if hot == 0:
        hot = 1
    if a.pattern == PATTERN_FILL:
        for i in range(first, last):
            _fill(a, w, i)
    elif a.pattern == PATTERN_SEQUENTIAL:
        for i in range(first, last):
            _read(a, w, i)
    elif a.pattern == PATTERN_REWRITE:
        for i in range(first, last):
            _write(a, w, i)
    elif a.pattern == PATTERN_RANDOM:
        for i in range(a.touches):
            _read(a, w, (next_random(cython.address(w.rng)) >> 11) % a.pages)
    elif a.pattern == PATTERN_RANDOM_WRITE:
        for i in range(a.touches):
            _write(a, w, (next_random(cython.address(w.rng)) >> 11) % a.pages)
    else:
        for i in range(a.touches):
            if (next_random(cython.address(w.rng)) >> 11) % COLD_TOUCHES:
                _read(a, w, hot_first + (next_random(cython.address(w.rng)) >> 11) % hot)
            else:
                _read(a, w, (next_random(cython.address(w.rng)) >> 11) % a.pages)
    w.end_ns = now_ns()


def touch_verify(a, first_bad):
    i: uint64_t
    p: U8P
    want: constP
    bad: uint64_t = 0
    for i in range(a.pages):
        p = a.base + i * PAGE_BYTES
        want = a.corpus + i % a.corpus_pages * PAGE_BYTES
        if (cython.cast(U64P, p)[0] != i + a64_load_rlx(cython.address(a.written[i]))
                or memcmp(p + WORD_BYTES, want + WORD_BYTES, PAGE_BYTES - WORD_BYTES) != 0):
            if bad == 0:
                first_bad[0] = i
            bad += 1
    return bad


class TouchWork:
    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(TouchC))

    def __init__(self, corpus, pages, threads, seed=1):
        """Make room for the account of so many pages; it is resident from here on."""
        view: cython.const[cython.uchar][::1] = corpus
        i: uint32_t
        size: uint64_t = threads * cython.sizeof(TouchWorker)
        if view.shape[0] < PAGE_BYTES:
            raise UsageError("the corpus must be a page or more")
        if threads < 1 or pages < threads:
            raise UsageError(f"{pages} pages are too few for {threads} threads")
        self.keep = {"corpus": view}
        self.c.corpus = cython.address(view[0])
        self.c.corpus_pages = view.shape[0] // PAGE_BYTES
        self.c.pages = pages
        self.c.threads = threads
        self.c.written = cython.cast(U64P, malloc(self.c.pages * WORD_BYTES))
        self.c.workers = cython.cast(TouchWorkerP, malloc(size))
        if self.c.written == cython.NULL or self.c.workers == cython.NULL:
            raise MemoryError("no memory for the account of the pages")
        memset(self.c.written, 0, self.c.pages * WORD_BYTES)
        memset(self.c.workers, 0, size)
        for i in range(self.c.threads):
            self.c.workers[i].rng = (SEED * cython.cast(uint64_t, seed * 1000 + i + 3)) | 1

    def __dealloc__(self):
        free(self.c.written)
        free(self.c.workers)

    def attach(self, region):
        """The region to work on: a writable buffer of as many pages."""
        view: cython.uchar[::1] = region
        if cython.cast(uint64_t, view.shape[0]) != self.c.pages * PAGE_BYTES:
            raise UsageError(f"the region has {view.shape[0]} bytes, not {self.c.pages} pages")
        self.keep["region"] = view
        self.c.base = cython.address(view[0])

    def prepare(self, name, gate, touches=0):
        """The next pattern; `touches` of each thread, where it is random. Forgets earlier counts."""
        g: Gate = gate
        i: uint32_t
        rng: uint64_t
        if name not in NAMES:
            raise UsageError(f"no workload is called {name!r}; there are {', '.join(NAMES)}")
        if self.c.base == cython.NULL:
            raise UsageError("attach a region first")
        self.keep["gate"] = gate
        self.c.gate = cython.address(g.c)
        self.c.pattern = NAMES.index(name)
        self.c.touches = touches
        for i in range(self.c.threads):
            rng = self.c.workers[i].rng
            memset(cython.address(self.c.workers[i]), 0, cython.sizeof(TouchWorker))
            self.c.workers[i].rng = rng

    def run(self, thread):
        """Wait for the gate, then touch."""
        number: uint32_t = thread
        if number >= self.c.threads:
            raise UsageError(f"thread {thread} of {self.c.threads}")
        with cython.nogil:
            gate_wait(self.c.gate)
            touch_loop(cython.address(self.c), cython.address(self.c.workers[number]), number)

    def totals(self):
        """Sums over the threads, after they ended."""
        touches = faults = bad = ns = end_ns = 0
        i: uint32_t
        for i in range(self.c.threads):
            touches += self.c.workers[i].touches
            faults += self.c.workers[i].faults
            bad += self.c.workers[i].bad
            ns += self.c.workers[i].ns
            end_ns = max(end_ns, self.c.workers[i].end_ns)
        return {"touches": touches, "faults": faults, "bad_reads": bad, "ns": ns, "end_ns": end_ns}

    def fault_times(self):
        """Histogram of the touches that were faults, over all threads."""
        counts = [0] * HIST_BUCKETS
        i: uint32_t
        b: cython.int
        for i in range(self.c.threads):
            for b in range(HIST_BUCKETS):
                counts[b] += self.c.workers[i].faults_by_time[b]
        return counts

    def verify(self):
        """Compare every byte: (pages that differ, the first of them)."""
        first: uint64_t = 0
        bad: uint64_t
        if self.c.base == cython.NULL:
            raise UsageError("attach a region first")
        with cython.nogil:
            bad = touch_verify(cython.address(self.c), cython.address(first))
        return bad, first


class PlainRegion:
    """Anonymous memory without huge pages, as a writable buffer of zeros."""

    def __cinit__(self, nbytes):
        size: uint64_t = nbytes
        self.start = memory_reserve(size)
        if self.start == cython.NULL:
            raise MemoryError(f"no address space for {nbytes} bytes")
        self.nbytes = nbytes

    def __dealloc__(self):
        memory_release(self.start, self.nbytes)

    def __getbuffer__(self, buffer: cython.pointer(Py_buffer), flags: cython.int):
        PyBuffer_FillInfo(buffer, self, self.start, self.nbytes, False, flags)
