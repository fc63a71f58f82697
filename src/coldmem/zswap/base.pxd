# The Zswap as a whole. C callers: take c, then context.pxd, store.pxd and load.pxd.
from libc.stdint cimport uint32_t

from coldmem.zswap.state cimport WorkContext, ZswapC
from coldmem.zswap.swapfile cimport SwapFile

cdef class ZswapBase:
    cdef ZswapC *c                  # valid while the object lives
    cdef object __weakref__
    cdef readonly str locking
    cdef readonly SwapFile swap     # or None
    cdef bint owns_swap
    cdef object pools               # Pool or Pools
    cdef list codecs                # of c.codecs, by id: keeps them alive
    cdef list codec_asked           # by id: what the caller gave, a name or an object
    cdef dict group_ids             # name -> id
    cdef dict group_parents         # name -> name or None
    cdef object lock                # serialises what changes the four above
    cdef object thread
    cdef WorkContext *_enter(self) except NULL
    cdef int _admin(self) except -1
    cdef uint32_t _group(self, object group) except? 0xFFFFFFFF
    cdef list _pool_list(self)

# Runs the shrinker without keeping the Zswap alive: its close waits for it.
cdef class _ShrinkerThread:
    cdef ZswapC *c
