# Forked children that may still read a swap file.
from libc.stdint cimport uint32_t

from coldmem.zswap.swapcore cimport SwapFileC

cdef struct Child:              # _lock
    Child *next
    SwapFileC **files           # n, right behind; NULL: closed meanwhile
    uint32_t n
    int reading
    int writing                 # until the fork is done

ctypedef Child *ChildP
ctypedef SwapFileC **FilesP

# From now on forks look after this swap file; not any more.
cdef void children_watch(SwapFileC *f) noexcept nogil
cdef void children_forget(SwapFileC *f) noexcept nogil
# Free what was held for children that have gone. With no lock of a swap file.
cdef void children_look() noexcept nogil
