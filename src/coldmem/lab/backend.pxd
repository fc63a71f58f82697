# The Python face of zbud and z3fold.
cimport cython
from libc.stdint cimport int32_t, uint32_t, uint64_t
from cpython.buffer cimport Py_buffer

from coldmem.lab.allocator cimport AllocatorOps, payload_t
from coldmem.lab.backend_core cimport BackendC
from coldmem.zsmalloc.arena cimport Budget

@cython.final
cdef class Backend:
    cdef BackendC *c
    cdef AllocatorOps ops
    cdef int32_t users          # atomic: threads inside
    cdef int32_t views          # atomic: open views
    cdef int32_t closing        # atomic
    cdef object owner           # the Backends whose budget this pool shares
    cdef readonly str kind
    cdef readonly str name
    cdef readonly int object_bytes_max
    cdef _open(self, object kind, object limit, object capacity, bint lock_statistics, object name,
               Budget *budget)
    cdef uint32_t _size(self, object size) except 0
    cdef object _full(self, uint32_t size)
    cdef int _enter(self) except -1
    cdef void _leave(self) noexcept nogil

@cython.final
cdef class BackendView:
    cdef Backend pool
    cdef object shown           # the memoryview that __enter__ gave
    cdef Py_ssize_t exports     # GIL: buffers that are out
    cdef uint64_t handle
    cdef payload_t data         # NULL once ended
    cdef Py_ssize_t size
    cdef void _end(self) noexcept
