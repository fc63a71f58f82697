# The door of a Zswap: every call holds one working context. NULL: the Zswap is closed.
from libc.stdint cimport int32_t, uint8_t, uint32_t

from coldmem.linux.atomic cimport a32_store_rel
from coldmem.zswap.state cimport WorkContext, ZswapC

ctypedef uint8_t *U8P

# Waits when all are in use. The caller holds no lock. One taking may serve many calls.
cdef WorkContext *context_get(ZswapC *z) noexcept nogil
cdef inline void context_put(ZswapC *z, WorkContext *w) noexcept nogil:
    a32_store_rel(&w.busy, 0)

# Working memory of codec `id` in w, made on first use; *failed is set when there is no memory.
cdef void *context_codec(ZswapC *z, WorkContext *w, uint32_t id, int32_t *failed) noexcept nogil
# Buffer for writeback, made on first use; False: no memory.
cdef bint context_batch(ZswapC *z, WorkContext *w) noexcept nogil
# Be alone: returns when all other calls are out, and keeps new ones waiting (or, closed, out).
cdef void contexts_stop(ZswapC *z) noexcept nogil
cdef void contexts_resume(ZswapC *z) noexcept nogil
cdef int contexts_init(ZswapC *z) noexcept nogil
cdef void contexts_free_buffers(ZswapC *z) noexcept nogil
cdef void contexts_destroy(ZswapC *z) noexcept nogil
cdef void contexts_drop_codec(ZswapC *z, uint32_t id) noexcept nogil
