# The bits of a handle and of its word.
#
# handle = tag:10 | generation:22 | index:32      what the owner keeps
# word   = pins:11 | moving:1 | class:9 | zspage:28 | object:15      where the object is now
from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum:
    OBJ_BITS = 15
    ZSPAGE_BITS = 28
    CLASS_BITS = 9
    CLASS_SHIFT = 43
    MOVING_SHIFT = 52
    PIN_SHIFT = 53
    PINS_MAX = 2000             # of 2047: the rest is for threads that step back
    GENERATION_MASK = 0x3FFFFF
    TAG_MASK = 0x3FF

cdef inline uint64_t pin_one() noexcept nogil:
    return <uint64_t> 1 << PIN_SHIFT

cdef inline uint64_t moving_bit() noexcept nogil:
    return <uint64_t> 1 << MOVING_SHIFT

cdef inline uint32_t word_object(uint64_t w) noexcept nogil:
    return <uint32_t> (w & 0x7FFF)

cdef inline uint32_t word_zspage(uint64_t w) noexcept nogil:
    return <uint32_t> ((w >> OBJ_BITS) & 0xFFFFFFF)

cdef inline uint32_t word_class(uint64_t w) noexcept nogil:
    return <uint32_t> ((w >> CLASS_SHIFT) & 0x1FF)

cdef inline uint32_t word_pins(uint64_t w) noexcept nogil:
    return <uint32_t> (w >> PIN_SHIFT)

cdef inline uint64_t word_location(uint64_t w) noexcept nogil:
    return w & ((<uint64_t> 1 << MOVING_SHIFT) - 1)

cdef inline uint64_t make_location(uint32_t klass, uint32_t zspage, uint32_t obj) noexcept nogil:
    return (<uint64_t> klass << CLASS_SHIFT) | (<uint64_t> zspage << OBJ_BITS) | obj

cdef inline uint64_t make_handle(uint32_t tag, int32_t generation, uint32_t index) noexcept nogil:
    return (<uint64_t> tag << 54) | (<uint64_t> <uint32_t> generation << 32) | index

cdef inline uint32_t handle_index(uint64_t h) noexcept nogil:
    return <uint32_t> h

cdef inline int32_t handle_generation(uint64_t h) noexcept nogil:
    return <int32_t> ((h >> 32) & GENERATION_MASK)

cdef inline uint32_t handle_tag(uint64_t h) noexcept nogil:
    return <uint32_t> (h >> 54)
