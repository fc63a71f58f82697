# The transmission phase of one connection, served by several threads.
#
# Locks: the baton (only its holder receives), then nothing; send_lock, a leaf. Neither is held while
# the device works, except that the baton may be (see serve.py).
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport iovec
from coldmem.linux.lock cimport Mutex
from coldmem.nbd.block cimport DeviceC, Span, Spans, Worker
from coldmem.nbd.device cimport Device

cdef enum:
    INBUF_BYTES = 8192          # requests come in it several at a time; of payloads the first bytes
    SPANS_MAX = 64              # chunks of one reply
    STATUS_SPANS_MAX = 4096     # of one BLOCK_STATUS
    REQUEST_BYTES = 28
    CHUNK_BYTES = 32            # header of a chunk with offset and length
    EAGER_REQUESTS = 64

cdef struct Link:
    # constant once made
    DeviceC *device
    int32_t fd
    int32_t structured
    int32_t allocation          # base:allocation was negotiated
    int32_t read_only
    uint64_t fill0[5]
    # atomic
    int32_t baton               # futex: 1: somebody has it
    int32_t waiting             # threads that sleep on it
    int32_t ended               # no more requests are taken
    int32_t inflight            # requests taken and not yet answered
    uint64_t fill1[6]
    Mutex send_lock             # one reply after the other
    uint64_t fill2[4]
    # guarded by the baton
    int32_t eager               # so many requests more are passed on as soon as they are read
    uint32_t in_at
    uint32_t in_end
    uint32_t fill3
    uint8_t inbuf[INBUF_BYTES]

ctypedef Link *LinkP
ctypedef uint8_t *U8P
ctypedef const uint8_t *TextP

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
    uint8_t *buffer             # payload, PAYLOAD_BYTES_MAX of address space
    uint32_t segments           # parts in use
    uint32_t fill
    iovec parts[2 * SPANS_MAX + 2]
    uint8_t heads[CHUNK_BYTES * (SPANS_MAX + 1)]
    Span spans[STATUS_SPANS_MAX]
    uint8_t extents[STATUS_SPANS_MAX * 8]

ctypedef Session *SessionP

cdef Session *session_new(DeviceC *d) noexcept nogil
cdef void session_free(Session *s) noexcept nogil
cdef void serve_loop(Link *k, Session *s) noexcept nogil

# Parts of it -------------------------------------------------------------------
cdef bint baton_take(Link *k) noexcept nogil
cdef void baton_give(Link *k) noexcept nogil
cdef void link_end(Link *k) noexcept nogil
# More of the stream into inbuf, which is empty: True when something is there.
cdef bint more_has_come(Link *k) noexcept nogil
cdef bint fill_header(Link *k) noexcept nogil
cdef bint receive_payload(Link *k, uint8_t *to, uint32_t n) noexcept nogil
cdef bint drain(Link *k, Session *s, uint32_t n) noexcept nogil
cdef bint request_read(Link *k, Session *s) noexcept nogil
cdef int32_t request_fault(Link *k, Request *r) noexcept nogil
cdef bint may_take_long(Link *k, Request *r) noexcept nogil
cdef void request_do(Link *k, Session *s) noexcept nogil
cdef void reply(Link *k, Session *s) noexcept nogil
cdef void count_error(DeviceC *d, int32_t error) noexcept nogil
cdef uint32_t head_structured(Session *s, uint32_t number, uint16_t flags, uint16_t kind,
                              uint32_t nbytes) noexcept nogil
cdef void part_add(Session *s, void *start, uint64_t nbytes) noexcept nogil
cdef void reply_error(Link *k, Session *s, int32_t error, bint at, uint64_t offset) noexcept nogil
cdef void reply_done(Link *k, Session *s) noexcept nogil
cdef void reply_data(Link *k, Session *s, Spans *spans) noexcept nogil
cdef void reply_status(Link *k, Session *s, Spans *spans) noexcept nogil


cdef inline uint64_t get64(const uint8_t *p) noexcept nogil:
    return (<uint64_t> p[0] << 56 | <uint64_t> p[1] << 48 | <uint64_t> p[2] << 40
            | <uint64_t> p[3] << 32 | <uint64_t> p[4] << 24 | <uint64_t> p[5] << 16
            | <uint64_t> p[6] << 8 | p[7])


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    return <uint32_t> p[0] << 24 | <uint32_t> p[1] << 16 | <uint32_t> p[2] << 8 | p[3]


cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    return <uint16_t> (<uint32_t> p[0] << 8 | p[1])


cdef inline void put16(uint8_t *p, uint16_t v) noexcept nogil:
    p[0] = <uint8_t> (v >> 8)
    p[1] = <uint8_t> v


cdef inline void put32(uint8_t *p, uint32_t v) noexcept nogil:
    put16(p, <uint16_t> (v >> 16))
    put16(p + 2, <uint16_t> v)


cdef inline void put64(uint8_t *p, uint64_t v) noexcept nogil:
    put32(p, <uint32_t> (v >> 32))
    put32(p + 4, <uint32_t> v)


cdef class Connection:
    cdef Link *c
    cdef Device device          # keeps the memory that c points to
    cdef object __weakref__
