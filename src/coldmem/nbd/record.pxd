# What one thread did, in the order that it did it: chunks of records, appended without a lock.
from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef enum RecordOp:
    RECORD_STORE = 0
    RECORD_LOAD = 1
    RECORD_TRIM = 2

cdef enum:
    RECORDS_PER_CHUNK = 65536
    RECORD_OP_SHIFT = 24        # above the bytes, of which there are at most 65536

cdef struct Record:             # 16 bytes
    uint64_t time_ns            # from the start of the recording
    uint32_t slot
    uint32_t what               # op << RECORD_OP_SHIFT | bytes

cdef struct Chunk:
    Chunk *next
    uint64_t used
    Record records[RECORDS_PER_CHUNK]

# Written by its thread; read when that thread has ended.
cdef struct Recorder:
    Recorder *next              # in the device's list
    Chunk *first
    Chunk *last
    uint64_t dropped            # records for which there was no memory
    uint64_t start_ns
    uint32_t thread
    uint32_t fill

ctypedef Recorder *RecorderP
ctypedef Chunk *ChunkP
ctypedef Record *RecordP

cdef Recorder *recorder_new(uint64_t start_ns, uint32_t thread) noexcept nogil
cdef void recorder_free(Recorder *r) noexcept nogil
cdef void record_add(Recorder *r, uint32_t op, uint64_t slot, uint32_t nbytes) noexcept nogil
