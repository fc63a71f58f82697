# Declarations of _simd.h: only to be called where avx2_init() or avx512_init() say yes.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

cdef extern from "_simd.h" nogil:
    bint avx2_init() noexcept
    void avx2_forward(int32_t width, const uint8_t *p, uint8_t *dst, uint64_t stride) noexcept
    void avx2_backward(int32_t width, const uint8_t *src, uint64_t stride, uint8_t *p) noexcept
    bint avx512_init() noexcept
    void avx512_forward(int32_t width, const uint8_t *p, uint8_t *dst, uint64_t stride) noexcept
    void avx512_delta_forward(int32_t width, uint64_t before, const uint8_t *p, uint8_t *dst,
                            uint64_t stride) noexcept
    void avx512_backward(int32_t width, const uint8_t *src, uint64_t stride, uint8_t *p) noexcept
    void avx512_delta_backward(int32_t width, uint64_t before, const uint8_t *src, uint64_t stride,
                             uint8_t *p) noexcept
    # planes.py, for planes of a multiple of 64 bytes
    uint32_t avx512_kind(const uint8_t *p, uint32_t m, bint first) noexcept
    uint32_t avx512_write_changes(const uint8_t *p, uint32_t m, bint cross, uint8_t *dst,
                                uint32_t cap) noexcept
    int32_t avx512_read_changes(const uint8_t *src, uint32_t n, bint cross, uint8_t *p,
                              uint32_t m) noexcept
