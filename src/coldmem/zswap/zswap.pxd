# The public class. C callers: take c of a Zswap, then context.pxd, store.pxd and load.pxd.
from coldmem.zswap.base cimport ZswapBase

cdef class Zswap(ZswapBase):
    cdef object _store(self, object slots, object buffer, object group, bint single, bint keep)
    cdef object _load(self, object slots, object out, bint exclusive, bint single)
    cdef object _wrong_size(self, object nbytes, bint single)
