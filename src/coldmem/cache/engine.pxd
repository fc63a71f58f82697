# A cache's engine as a whole.
from coldmem.cache.put cimport Writer

cdef class Engine(Writer):
    pass
