# The Python face of the simulation.
from coldmem.lab.scale_sim cimport SimC

cdef class Simulation:
    cdef SimC c
    cdef readonly int tasks
    cdef readonly int cores
    cdef object _allocate(self)
    cdef object _fill(self, list programs, object mix, object classes)
    cdef object _start(self)
    cdef dict _locks(self)
