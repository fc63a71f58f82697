# The native client of `bench nbd`: requests to an NBD server over a socket, or to a block device.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from coldmem.lab.gate cimport HIST_BUCKETS, Gate, GateC
from coldmem.linux.atomic cimport iovec

cdef enum:
    HEAD_BYTES = 28             # of a request
    REPLY_BYTES = 16            # of a simple reply, before its data
    DEPTH_MAX = 64
    ROOM_BYTES = 4096           # of a buffer, before the data of a reply

# Of one client; written by its thread only, read after it ended.
cdef struct NbdClient:
    int32_t fd
    int32_t error               # errno of the request that failed; -1: the stream ended
    uint64_t first              # its part of the order
    uint64_t count
    uint64_t done
    uint64_t bad                # reads that gave other bytes than expected
    uint64_t end_ns
    uint8_t *buffer             # ROOM_BYTES and one request, in whole pages
    # requests under way
    uint32_t free_count
    uint32_t fill
    uint32_t free[DEPTH_MAX]
    uint64_t offset[DEPTH_MAX]
    uint64_t sent_ns[DEPTH_MAX]
    uint64_t by_time[HIST_BUCKETS]

ctypedef NbdClient *NbdClientP
ctypedef uint8_t *U8P
ctypedef const uint8_t *ConstP
ctypedef uint64_t *U64P

cdef struct NbdWorkC:
    int32_t socket              # 0: a block device
    int32_t compare_all         # every byte of a read, not only both ends
    uint32_t command            # as in the protocol
    uint32_t request_bytes
    uint32_t depth
    uint32_t clients
    const uint8_t *content      # of the device: what is written, and what reads must give
    uint64_t *order             # offsets
    NbdClient *client
    GateC *gate

ctypedef NbdWorkC *NbdWorkP

cdef bint same_bytes(NbdWorkC *a, const uint8_t *got, uint64_t offset) noexcept nogil
cdef int32_t request_send(NbdWorkC *a, NbdClient *c, uint64_t offset) noexcept nogil
cdef int32_t replies_receive(NbdWorkC *a, NbdClient *c, uint64_t sent) noexcept nogil
cdef void socket_loop(NbdWorkC *a, NbdClient *c) noexcept nogil
cdef void device_loop(NbdWorkC *a, NbdClient *c) noexcept nogil

cdef class NbdWork:
    cdef NbdWorkC c
    cdef object keep            # content and order
    cdef Gate gate
