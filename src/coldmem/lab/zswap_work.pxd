# The native loop of the workload `zswap`.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.lab.gate cimport HIST_BUCKETS, Gate, GateC
from coldmem.zswap.state cimport ZswapC

# Results and state of one thread, written by that thread only, read after it ended.
cdef struct SwapWorker:
    uint64_t rng
    uint64_t ops                # toggles of a slot
    uint64_t end_ns
    uint64_t bad                # loads that gave other bytes than were stored, or none
    uint64_t failed             # stores refused
    uint64_t fill[11]
    uint64_t loads_by_time[HIST_BUCKETS]

ctypedef SwapWorker *SwapWorkerP
ctypedef const uint8_t *constP
ctypedef uint64_t *U64P
ctypedef uint32_t *U32P
ctypedef uint8_t *U8P

cdef struct SwapWorkC:
    ZswapC *zswap
    uint32_t unit_bytes
    uint32_t threads
    uint32_t span               # slots of a thread
    uint32_t units_n
    uint32_t compressed         # units are compressed already: no codec runs
    uint32_t timed              # fill the histogram of load times
    const uint8_t *unit_data
    uint64_t *unit_at           # units_n + 1 offsets into unit_data
    uint32_t *held              # per slot: 1 + index of the unit, 0: empty
    SwapWorker *workers
    GateC *gate

ctypedef SwapWorkC *SwapWorkP

cdef void swap_put(SwapWorkC *a, SwapWorker *w, uint32_t slot) noexcept nogil
cdef void swap_take(SwapWorkC *a, SwapWorker *w, uint32_t slot, uint8_t *out) noexcept nogil
cdef void swap_loop(SwapWorkC *a, SwapWorker *w, uint32_t thread, uint64_t ops_max,
                    uint8_t *out) noexcept nogil

cdef class ZswapWork:
    cdef SwapWorkC c
    cdef object keep            # the Zswap and the units, so that they outlive the loops
    cdef Gate gate
