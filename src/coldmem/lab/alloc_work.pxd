# The native loops of the workloads `alloc` and `compact`.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.lab.allocator cimport AllocatorOps
from coldmem.lab.allocators cimport Allocators
from coldmem.lab.gate cimport HIST_BUCKETS, Gate, GateC

cdef extern from *:
    const char *COMPILER_TEXT "__VERSION__"

# One place where an object may live. Touched by the thread that owns its span only.
cdef struct Slot:
    uint64_t handle             # 0: empty
    uint32_t payload            # index of what was written
    uint32_t pad

# Results and state of one thread, written by that thread only, read after it ended.
cdef struct Worker:
    uint64_t rng
    uint64_t ops                # toggles of a slot
    uint64_t end_ns
    uint64_t bad                # reads that gave other bytes than were written
    uint64_t failed             # malloc found no room
    uint64_t fill[11]
    uint64_t reads_by_time[HIST_BUCKETS]

ctypedef Worker *WorkerP
ctypedef Slot *SlotP
ctypedef const uint8_t *constP
ctypedef uint64_t *U64P
ctypedef uint32_t *U32P

cdef struct AllocC:
    AllocatorOps ops
    void **pools
    uint32_t pools_n
    uint32_t threads
    uint32_t span               # slots of a thread
    uint32_t stride             # phases: from one slot to the next
    uint32_t payloads_n
    uint32_t timed              # fill the histogram of read times
    const uint8_t *payload_bytes
    uint64_t *payload_at        # payloads_n + 1 offsets into payload_bytes
    Slot *slots
    Worker *workers
    GateC *gate

ctypedef AllocC *AllocP

cdef bint alloc_put(AllocC *a, Worker *w, uint32_t slot) noexcept nogil
cdef void alloc_look(AllocC *a, Worker *w, uint32_t slot) noexcept nogil
cdef void alloc_drop(AllocC *a, Worker *w, uint32_t slot) noexcept nogil
cdef void alloc_watch(AllocC *a, Worker *w, uint32_t thread) noexcept nogil
cdef void alloc_phase(AllocC *a, Worker *w, uint32_t thread, uint32_t what) noexcept nogil
cdef void alloc_loop(AllocC *a, Worker *w, uint32_t thread, uint64_t ops_max) noexcept nogil
cdef void alloc_compact(AllocC *a, uint64_t *passes) noexcept nogil

cdef class AllocWork:
    cdef AllocC c
    cdef Allocators allocators  # kept, and with them the pools, so that they outlive the loops
    cdef object keep            # the payloads
    cdef Gate gate
