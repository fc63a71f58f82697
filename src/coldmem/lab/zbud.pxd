# zbud: two objects a page.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.lab.allocator cimport AllocatorOps
from coldmem.lab.backend_core cimport BackendC, PageHeader

cdef uint64_t zbud_malloc(void *p, uint32_t size) noexcept nogil
cdef void zbud_write(void *p, uint64_t handle, const uint8_t *src, uint32_t n) noexcept nogil
cdef int32_t zbud_free(void *p, uint64_t handle) noexcept nogil
cdef const uint8_t *zbud_read_begin(void *p, uint64_t handle, uint64_t *token, int32_t *error) noexcept nogil
cdef uint64_t zbud_can_compact(void *p) noexcept nogil
cdef uint64_t zbud_compact(void *p) noexcept nogil
cdef void zbud_ops(AllocatorOps *out) noexcept nogil
# The number of the list that the page belongs in.
cdef uint32_t zbud_room(PageHeader *page) noexcept nogil
