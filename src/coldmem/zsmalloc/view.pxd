cimport cython
from cpython.buffer cimport Py_buffer
from libc.stdint cimport int32_t, uint8_t, uint64_t

from coldmem.zsmalloc.core cimport PoolC

@cython.final
cdef class View:
    cdef object pool            # keeps c alive
    cdef PoolC *c
    cdef int32_t *open_views    # the pool's counter, atomic
    cdef object shown           # the memoryview that __enter__ gave
    cdef Py_ssize_t exports     # GIL: buffers that are out
    cdef uint64_t handle
    cdef uint64_t token
    cdef const uint8_t *data    # NULL once ended
    cdef Py_ssize_t size
    cdef void _end(self) noexcept
