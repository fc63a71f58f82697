# The swap file as C sees it: what callers may use. The functions are described in swapcore.pxd.
from coldmem.zswap.checksum cimport checksum
from coldmem.zswap.swapcore cimport (
    SwapFileC, SwapFileP, swap_alloc, swap_charge, swap_free, swap_read, swap_write,
)

cdef class SwapFile:
    cdef SwapFileC c
    cdef object __weakref__
    cdef readonly int unit_bytes
    cdef readonly str directory
    cdef readonly bint in_memory
    cdef list fault_tables      # every table that was ever installed: a transfer may still look at it
