# Room of the swap file that a forked child may still read is not given out again while it lives.
from libc.stdint cimport int64_t, uint32_t

from coldmem.zswap.swapcore cimport LateFreeP, SwapFileC

# One more child. Lock held.
cdef void swap_hold(SwapFileC *f) noexcept nogil
# One less. With the last one, what was freed meanwhile is free.
cdef void swap_let_go(SwapFileC *f) noexcept nogil
# Remember a free for later; False: there is no memory to. Lock held.
cdef bint swap_defer(SwapFileC *f, int64_t offset, uint32_t n) noexcept nogil
