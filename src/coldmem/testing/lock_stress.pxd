# Native loops around the locks, and the data that they guard.
from libc.stdint cimport int32_t, uint64_t

from coldmem.linux.lock cimport Mutex, RwLock

cdef struct Pair:
    uint64_t first              # the lock; equal to second whenever the lock is free
    uint64_t second             # the lock
    int32_t broken              # atomic: somebody saw them differ inside the lock

ctypedef Pair *PairP

cdef class MutexStress:
    cdef Mutex lock
    cdef Pair pair
    cdef bint locked            # constant

cdef class RwStress:
    cdef RwLock lock
    cdef Pair pair
    cdef bint locked            # constant

cdef void both_up(Pair *pair, uint64_t hold, bint rest) noexcept nogil
cdef void both_same(Pair *pair, uint64_t hold, bint rest) noexcept nogil
cdef void mutex_work(MutexStress stress, uint64_t rounds, uint64_t hold) noexcept nogil
cdef uint64_t mutex_try_work(MutexStress stress, uint64_t rounds) noexcept nogil
cdef void read_work(RwStress stress, uint64_t rounds, uint64_t hold) noexcept nogil
cdef void write_work(RwStress stress, uint64_t rounds, uint64_t hold) noexcept nogil
