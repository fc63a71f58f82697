# A cache's keys, and how a value is read.
cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from coldmem.cache.state cimport CacheC, Key, Shard
from coldmem.zsmalloc.pool cimport Pool

# A key of the side table, whose hash is known: looking for this very object runs nobody's code.
cdef class Other:
    cdef object key
    cdef Py_hash_t hash

cdef class Core:
    cdef CacheC *c
    cdef Pool pool
    cdef object __weakref__
    # Keeps them alive. No list: a collected cycle empties lists before __dealloc__ uses the codecs.
    cdef tuple codecs
    cdef dict others            # Other -> number, for keys that are not str, bytes or int
    cdef dict others_by_number
    cdef dict held              # number -> calls that are about to store something under it
    cdef int64_t next_other
    cdef object chooser         # a policy of the user's own, or None
    cdef list heard             # keys that have gone, and why: `on_evict` has not been told yet
    cdef readonly bint closed
    cdef object _key(self, object key, Key *k, bint create)
    cdef object _number_of(self, Other other)
    cdef int _forget_other(self, object number) except -1
    cdef int _open(self) except -1
    cdef int _missed(self) except -1
    cdef object _read(self, object key, Key *k, bint count, bint stay)
    cdef object _small(self, Shard *s, uint32_t i, bint count)
    cdef object _large(self, Shard *s, uint32_t i, bint count)

ctypedef unsigned char *UCharP
