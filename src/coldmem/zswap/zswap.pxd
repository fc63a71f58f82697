# The public class. C callers: take z.c, then context.pxd, store.pxd and load.pxd.
from coldmem.zswap.state cimport ZswapC
from coldmem.zswap.swapfile cimport SwapFile

cdef class Zswap:
    cdef ZswapC *c              # valid while the object lives
    cdef object __weakref__
    cdef readonly int unit_bytes
    cdef readonly object pools      # Pool or Pools
    cdef readonly SwapFile swap     # or None
    cdef readonly bint owns_swap
    cdef list codecs                # of c.codecs: keeps them alive
    cdef dict groups
    cdef object thread
