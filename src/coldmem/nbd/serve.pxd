# The transmission phase of one connection, served by several threads.
#
# Locks: the baton (only its holder receives), then nothing; send_lock, a leaf. Neither is held while
# the device works, except that the baton may be (see serve.py).
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from coldmem.linux.lock cimport Mutex
from coldmem.nbd.answer cimport Request, Session
from coldmem.nbd.block cimport DeviceC
from coldmem.nbd.device cimport Device

cdef enum:
    INBUF_BYTES = 8192          # requests come in it several at a time; of payloads the first bytes
    REQUEST_BYTES = 28
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
ctypedef const uint8_t *TextP

cdef Session *session_new(Link *k) noexcept nogil
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

cdef inline uint64_t get64(const uint8_t *p) noexcept nogil:
    return (<uint64_t> p[0] << 56 | <uint64_t> p[1] << 48 | <uint64_t> p[2] << 40
            | <uint64_t> p[3] << 32 | <uint64_t> p[4] << 24 | <uint64_t> p[5] << 16
            | <uint64_t> p[6] << 8 | p[7])


cdef inline uint32_t get32(const uint8_t *p) noexcept nogil:
    return <uint32_t> p[0] << 24 | <uint32_t> p[1] << 16 | <uint32_t> p[2] << 8 | p[3]


cdef inline uint16_t get16(const uint8_t *p) noexcept nogil:
    return <uint16_t> (<uint32_t> p[0] << 8 | p[1])


cdef class Connection:
    cdef Link *c
    cdef Device device          # keeps the memory that c points to
    cdef object __weakref__
