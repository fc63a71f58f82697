# The shrinker: one thread of a Zswap, without the GIL.
from coldmem.linux.atomic cimport a32_cas, a32_load_rlx, futex_wake
from coldmem.zswap.state cimport SHRINKER_IDLE, SHRINKER_WOKEN, ZswapC

# The thread's loop; returns after shrinker_stop.
cdef void shrinker_loop(ZswapC *z) noexcept nogil
cdef void shrinker_round(ZswapC *z) noexcept nogil
cdef bint shrinker_stopping(ZswapC *z) noexcept nogil
# Tell the loop to end, and wait until it has.
cdef void shrinker_stop(ZswapC *z) noexcept nogil


cdef inline void shrinker_wake(ZswapC *z) noexcept nogil:
    if a32_load_rlx(&z.shrinker) == SHRINKER_IDLE and a32_cas(&z.shrinker, SHRINKER_IDLE, SHRINKER_WOKEN):
        futex_wake(&z.shrinker, 1)
