# The loops that `coldmem lab scale` calibrates with: the allocator's operations, watched from outside.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.lab.alloc_work cimport AllocC, AllocWork, Worker
from coldmem.lab.gate cimport GateC
from coldmem.linux.lock cimport Mutex

cdef enum Phase:                # where the one working thread is
    PHASE_LOOP = 0
    PHASE_MALLOC = 1
    PHASE_WRITE = 2
    PHASE_READ = 3
    PHASE_FREE = 4

cdef enum:
    PHASES = 5
    WATCHED = 3                 # kinds of locks: pool, class, arena

cdef struct Seen:               # of one kind of lock
    uint64_t looks[PHASES]
    uint64_t held[PHASES]

cdef struct Turn:               # of one thread, in turns
    uint64_t ns[PHASES]
    uint64_t times[PHASES]

cdef struct WatchC:
    int32_t phase               # atomic: stored by the working thread, read by the one that watches
    int32_t fill0[31]
    int32_t turn                # atomic: whose turn it is
    int32_t fill1[31]
    Seen seen[WATCHED]
    Turn turns[2]


cdef void watched_put(WatchC *c, AllocC *a, Worker *w, uint32_t slot) noexcept nogil
cdef void watched_take(WatchC *c, AllocC *a, Worker *w, uint32_t slot) noexcept nogil
cdef void watched_loop(WatchC *c, AllocC *a, Worker *w, uint32_t thread, GateC *g) noexcept nogil
cdef void watch_locks(WatchC *c, Mutex **locks, int32_t *kinds, uint32_t n, uint64_t pause_ns,
                      GateC *g) noexcept nogil
cdef void clock_phase(Turn *t, int32_t phase, uint64_t *since) noexcept nogil
cdef void turns_loop(WatchC *c, AllocC *a, Worker *w, uint32_t me, uint32_t n, uint32_t ops,
                     int32_t *turn) noexcept nogil

cdef class ScaleWork:
    cdef WatchC c
    cdef AllocWork work
    cdef AllocWork source       # whose payloads are written, if not `work`'s
