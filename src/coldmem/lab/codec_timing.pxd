from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport Codec, CodecC

ctypedef const uint8_t *ConstBytes
ctypedef uint8_t *MutBytes
ctypedef int32_t *Sizes

cdef struct Pass:
    CodecC codec
    const uint8_t *data
    uint8_t *packed             # unit i's output at i * unit_bytes
    uint8_t *back               # one unit
    int32_t *sizes
    uint64_t units
    uint32_t unit_bytes
    uint32_t region_units       # units that share a hint
    uint64_t hint               # of the first region
    uint64_t compress_ns
    uint64_t decompress_ns
    uint64_t stored_bytes

# 0, -1: the codec failed, -2: what came back differs, -3: no memory.
cdef int one_pass(Pass *p) noexcept nogil
