# A counter that two threads change with no lock.
from libc.stdint cimport uint64_t

cdef class PlantedRace:
    cdef uint64_t unguarded     # no lock, on purpose

cdef void race_work(PlantedRace race, uint64_t rounds) noexcept nogil
