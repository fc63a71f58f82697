# Making and destroying the C pool.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.zsmalloc.arena cimport Budget
from coldmem.zsmalloc.core cimport PoolC

# Raises MemoryError or EnvironmentFailure. budget NULL: one of its own, with `limit`.
cdef PoolC *pool_new(object geometry, uint64_t capacity, uint64_t limit, uint32_t nodes,
                     Budget *budget, bint counting) except NULL
# Nobody may be inside. Memory in use is taken off a shared budget.
cdef void pool_destroy(PoolC *p) noexcept nogil
