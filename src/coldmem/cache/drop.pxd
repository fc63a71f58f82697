# How an entry is forgotten.
from coldmem.cache.core cimport Core
from coldmem.cache.state cimport Key

cdef class Dropper(Core):
    cdef bint _forget(self, Key *k) except -1
