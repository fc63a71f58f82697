# Declarations of _simd.h: 512 items at a time, and only where simd_init() says yes.
from libc.stdint cimport int32_t, uint8_t, uint64_t

cdef extern from "_simd.h" nogil:
    bint simd_init() noexcept
    void simd_forward(int32_t width, const uint8_t *p, uint8_t *dst, uint64_t stride) noexcept
    void simd_delta_forward(int32_t width, uint64_t before, const uint8_t *p, uint8_t *dst,
                            uint64_t stride) noexcept
    void simd_backward(int32_t width, const uint8_t *src, uint64_t stride, uint8_t *p) noexcept
