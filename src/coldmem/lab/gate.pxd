# What the native worker loops share: a start gate, a random number, a histogram of times.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport clz64

cdef enum:
    HIST_BUCKETS = 1024         # 16 buckets to the octave: read back within 7 %

# Everything is atomic. Threads arrive, sleep on `go`, and run until `stop`.
cdef struct GateC:
    int32_t arrived
    int32_t go
    int32_t stop
    int32_t pad

ctypedef GateC *GateP

cdef void gate_wait(GateC *g) noexcept nogil
cdef void gate_arrive(GateC *g) noexcept nogil

cdef class Gate:
    cdef GateC c

cdef inline uint64_t next_random(uint64_t *state) noexcept nogil:
    cdef uint64_t x = state[0]
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    state[0] = x
    return x

cdef inline uint32_t hist_bucket(uint64_t ns) noexcept nogil:
    cdef uint32_t octave
    if ns < 16:
        return <uint32_t> ns
    octave = 63 - clz64(ns)
    return (octave - 3) * 16 + (<uint32_t> (ns >> (octave - 4)) & 15)
