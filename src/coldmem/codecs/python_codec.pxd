from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport Codec

ctypedef void *VoidP

cdef int32_t python_compress(void *context, const uint8_t *src, uint32_t n,
                             uint8_t *dst, uint32_t cap, uint64_t hint) noexcept with gil
cdef int32_t python_decompress(void *context, const uint8_t *src, uint32_t n,
                               uint8_t *dst, uint32_t cap) noexcept with gil
cdef void *python_context_new(void *self, uint32_t unit_bytes) noexcept nogil
cdef void python_context_free(void *context) noexcept nogil

cdef class Window:
    cdef void *data
    cdef Py_ssize_t size
    cdef int views                  # GIL

cdef class PythonCodec(Codec):
    cdef readonly object target     # has compress and decompress; self for a subclass

    cdef int32_t call(self, const uint8_t *src, uint32_t n, uint8_t *dst, uint32_t cap,
                      bint packing) noexcept
    cdef int32_t fill(self, object view, uint8_t *dst, uint32_t cap, bint packing) except -1
