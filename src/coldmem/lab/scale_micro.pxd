# What a lock costs on this machine, piece by piece.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.linux.lock cimport Mutex

cdef enum:
    SAMPLES = 4096

# Shared by two threads; each word on lines of its own, but what the mutex guards lies beside it.
cdef struct MeetingC:
    int32_t turn
    int32_t fill0[31]
    Mutex lock
    int32_t holder              # `lock`
    int32_t fill1
    uint64_t unlocked_ns        # `lock`: when it was last given up, just before
    uint64_t fill2[10]
    int32_t word                # of the futex
    int32_t asleep
    int32_t fill3[30]
    int32_t stop
    int32_t fill4[31]
    uint64_t called_ns          # written before `word`, read after it

cdef uint64_t pause_for(uint32_t rounds) noexcept nogil

cdef class Meeting:
    cdef MeetingC c
    cdef object _times(self, uint64_t *values, uint32_t n)
