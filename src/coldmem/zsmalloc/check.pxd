# Executable invariants of a pool.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.zsmalloc.core cimport PoolC

cdef struct Finding:
    const char *what            # NULL: nothing wrong
    uint32_t klass
    uint32_t zspage
    uint32_t object

# full: also every object and handle. Takes each class lock in turn; may run beside other threads.
# bytes gets the memory of all zspages that the classes hold.
cdef void pool_check(PoolC *p, bint full, Finding *out, uint64_t *nbytes) noexcept nogil
# The same as an exception: CorruptPoolError that names the pool.
cdef object check_valid(PoolC *p, object name, object level)
