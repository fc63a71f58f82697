from coldmem.memory.state cimport MemoryC

# Knows the C side alone: it does not keep the Memory alive.
cdef class Runner:
    cdef MemoryC *c
    cdef int cpu
