# The native loop of `lab replay`.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.lab.gate cimport Gate, GateC
from coldmem.zswap.state cimport WorkContext, ZswapC

# Results and state of one thread, written by that thread only, read after it ended.
cdef struct ReplayWorker:
    uint64_t at                 # its operations: [at, end) of the arrays
    uint64_t end
    uint64_t ops                # operations done, the emptying between two rounds among them
    uint64_t end_ns
    uint64_t bad                # loads that gave other bytes than were stored
    uint64_t absent             # loads of slots that nothing was stored under, in the trace neither
    uint64_t failed             # stores refused
    uint64_t fill[9]

ctypedef ReplayWorker *ReplayWorkerP
ctypedef const uint8_t *constP
ctypedef uint32_t *U32P
ctypedef uint8_t *U8P

cdef struct ReplayC:
    ZswapC *zswap
    uint32_t unit_bytes
    uint32_t threads
    uint32_t rounds
    uint32_t coded              # units are made of a size that the codec brings to about nbytes
    uint32_t noise_units        # noise holds so many units, and one more
    uint32_t slots_n
    const uint8_t *noise        # bytes that do not compress
    const uint8_t *op           # per operation, thread by thread, each in the order of time
    const uint32_t *slot        # below slots_n
    const uint32_t *nbytes
    uint32_t *held              # per slot: 1 + the operation that stored it, 0: empty
    ReplayWorker *workers
    GateC *gate

ctypedef ReplayC *ReplayP

# Where the noise of operation i begins.
cdef inline const uint8_t *replay_noise(ReplayC *a, uint64_t i) noexcept nogil:
    return a.noise + (i * 2654435761U >> 7) % (<uint64_t> a.noise_units * a.unit_bytes)

cdef void replay_page(ReplayC *a, uint64_t i, uint8_t *page) noexcept nogil
cdef void replay_store(ReplayC *a, ReplayWorker *w, uint64_t i, uint8_t *page,
                       WorkContext *x) noexcept nogil
cdef bint replay_same(ReplayC *a, uint64_t i, const uint8_t *out, int32_t got) noexcept nogil
cdef void replay_load(ReplayC *a, ReplayWorker *w, uint64_t i, uint8_t *out,
                      WorkContext *x) noexcept nogil
cdef void replay_trim(ReplayC *a, uint64_t i, WorkContext *x) noexcept nogil
cdef void replay_loop(ReplayC *a, ReplayWorker *w, uint8_t *page, uint8_t *out) noexcept nogil

cdef class ReplayWork:
    cdef ReplayC c
    cdef object keep            # the Zswap and the arrays, so that they outlive the loops
    cdef Gate gate
