# A counter that two threads change with no lock.
from libc.stdint cimport uint8_t, uint64_t

ctypedef uint8_t *BytesP

cdef class PlantedRace:
    cdef uint64_t unguarded     # no lock, on purpose

cdef void race_work(PlantedRace race, uint64_t rounds) noexcept nogil
