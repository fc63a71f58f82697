# NumPy's allocator hook (NEP 49), without NumPy's headers: the two structures are part of its ABI.
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from coldmem.memory.spare cimport Spares
from coldmem.memory.state cimport MemoryC

cdef struct DataMemAllocator:
    void *ctx
    void *(*malloc)(void *ctx, size_t size) noexcept nogil
    void *(*calloc)(void *ctx, size_t count, size_t size) noexcept nogil
    void *(*realloc)(void *ctx, void *p, size_t size) noexcept nogil
    void (*free)(void *ctx, void *p, size_t size) noexcept nogil

cdef struct DataMemHandler:
    char name[127]
    uint8_t version
    DataMemAllocator allocator

# What the hook's functions get.
cdef struct Hook:
    DataMemHandler handler          # first: NumPy's pointer is ours
    DataMemAllocator inner          # what was NumPy's own before: for what is small
    MemoryC *m
    uint64_t promise
    uint64_t threshold_bytes        # smaller ones stay with malloc
    # atomics
    uint64_t refused
    uint64_t refused_bytes          # of the last that was
    uint64_t refused_at_bytes       # and of the arrays that were alive
    uint64_t taken                  # arrays
    uint64_t taken_bytes
    uint64_t peak_bytes             # of live arrays; two threads at once may miss a little
    Spares spares

ctypedef Hook *HookP
ctypedef DataMemHandler *HandlerP
ctypedef PyObject **PyObjectPP
ctypedef object (*SetHandler)(PyObject *handler)
