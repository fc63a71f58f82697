# Back from disk.
from coldmem.cache.spill cimport Spill

cdef class Recall(Spill):
    pass
