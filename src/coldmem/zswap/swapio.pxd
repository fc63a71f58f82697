# Whole transfers at an offset, and the faults that tests put into them.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef enum FaultKind:
    FAULT_ERROR = 1             # nothing is moved; argument: the errno
    FAULT_SHORT = 2             # the first system call moves only `argument` bytes
    FAULT_INTERRUPT = 3         # EINTR, `argument` times
    FAULT_DELAY = 4             # argument: milliseconds
    FAULT_LOST = 5              # write: says 0, writes nothing
    FAULT_TORN = 6              # write: says 0, writes the first `argument` bytes; read: see swapio.py
    FAULT_FLIP = 7              # read: bit number `argument` of the data is wrong
    FAULT_ELSEWHERE = 8         # read: data from `argument` bytes further on

cdef enum FaultOperation:
    ON_READ = 0
    ON_WRITE = 1
    ON_PUNCH = 2                # takes FAULT_ERROR and FAULT_DELAY

cdef struct FaultC:
    uint32_t kind               # all constant but `hits`
    uint32_t operation          # FaultOperation
    uint64_t first              # transfers are counted from 1; both ends included
    uint64_t last
    uint64_t chance             # of 2**32; 2**32: always
    int64_t argument            # < 0: chosen by the seed, where the kind has a choice
    uint64_t hits               # atomic

cdef struct FaultTable:
    uint64_t seed
    uint64_t count
    uint64_t numbers[3]         # atomic, by operation: how many since the table was made
    FaultC *faults

ctypedef FaultTable *FaultTableP
ctypedef FaultC *FaultP

# What the faults that strike one transfer add up to.
cdef struct Strike:
    int32_t error
    uint32_t interrupts
    uint64_t first_bytes        # 0: no limit
    bint lost
    bint torn
    bint flip
    bint elsewhere
    uint64_t torn_at
    uint64_t flip_bit
    int64_t distance

ctypedef Strike *StrikeP

# 0 or -errno. strike: NULL in production.
cdef int32_t io_write(int32_t fd, const uint8_t *src, uint64_t n, int64_t offset, Strike *strike) noexcept nogil
cdef int32_t io_read(int32_t fd, uint8_t *dst, uint64_t n, int64_t offset, Strike *strike) noexcept nogil
cdef int32_t faulty_write(FaultTable *t, int32_t fd, const uint8_t *src, uint64_t n, int64_t offset) noexcept nogil
cdef int32_t faulty_read(FaultTable *t, int32_t fd, uint8_t *dst, uint64_t n, int64_t offset) noexcept nogil
cdef int32_t faulty_punch(FaultTable *t, int32_t fd, int64_t offset, uint64_t nbytes) noexcept nogil

cdef class Faults:
    cdef FaultTable c
