# What a serving thread works with, and the answers that it prepares.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport iovec
from coldmem.nbd.block cimport DeviceC, Span, Spans, Worker

cdef enum:
    SPANS_MAX = 64              # chunks of one reply
    STATUS_SPANS_MAX = 4096     # of one BLOCK_STATUS
    CHUNK_BYTES = 32            # header of a chunk with offset and length

ctypedef uint8_t *U8P

cdef struct Request:
    uint64_t cookie             # as it came, not to be understood
    uint64_t offset
    uint32_t length
    uint16_t flags
    uint16_t command
    int32_t error               # found while it was read
    int32_t fill

ctypedef Request *RequestP

# What a serving thread needs; its own.
cdef struct Session:
    Worker worker
    Request request
    int32_t structured          # structured replies were agreed on
    int32_t fill0
    uint8_t *buffer             # payload, PAYLOAD_BYTES_MAX of address space
    uint32_t segments           # parts in use
    uint32_t fill
    iovec parts[2 * SPANS_MAX + 2]
    uint8_t heads[CHUNK_BYTES * (SPANS_MAX + 1)]
    Span spans[STATUS_SPANS_MAX]
    uint8_t extents[STATUS_SPANS_MAX * 8]

ctypedef Session *SessionP

# Each prepares the answer to s.request; the sending is the caller's.
cdef void reply_error(Session *s, int32_t error, bint at, uint64_t offset) noexcept nogil
cdef void reply_done(Session *s) noexcept nogil
cdef void reply_data(Session *s, Spans *spans) noexcept nogil
cdef void reply_status(Session *s, Spans *spans) noexcept nogil

# Parts of it -------------------------------------------------------------------
cdef void count_error(DeviceC *d, int32_t error) noexcept nogil
cdef uint32_t head_structured(Session *s, uint32_t number, uint16_t flags, uint16_t kind,
                              uint32_t nbytes) noexcept nogil
cdef void part_add(Session *s, void *start, uint64_t nbytes) noexcept nogil


cdef inline void put16(uint8_t *p, uint16_t v) noexcept nogil:
    p[0] = <uint8_t> (v >> 8)
    p[1] = <uint8_t> v


cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    put16(p, <uint16_t> (v >> 16))
    put16(p + 2, <uint16_t> v)


cdef inline void put64(uint8_t *p, uint64_t v) noexcept nogil:
    put32(p, <uint32_t> (v >> 32))
    put32(p + 4, <uint32_t> v)
