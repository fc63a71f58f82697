from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.bitshuffle cimport Shuffler
from coldmem.codecs.codec cimport BytesOut, Codec, CodecC

cdef enum:
    TABLE_ENTRIES = 16384       # 2-way: an entry and its neighbour (index ^ 1)
    SAMPLE_BYTES = 4096
    SAMPLE_PIECES = 4
    FILTERS = 8
    # 0 plain, 1..4 bit shuffle of 8, 4, 2, 1, 5..8 with delta before it; 9..16 are the filters of
    # 1..8 with planes.py in place of the inner codec
    VARIANTS = 17
    RAW = 17                    # not worth compressing; never written

cdef struct AutoSettings:
    CodecC inner                # constant, like all but the words of the table
    Shuffler shuffler
    uint64_t *table             # TABLE_ENTRIES words, relaxed atomics; see picker.py for the fields

cdef struct AutoContext:
    AutoSettings *settings
    void *inner
    uint32_t unit_bytes
    uint32_t raw_seen           # units met in raw regions, by this context
    uint32_t seen               # units met in others
    uint32_t looks              # how often it sampled
    uint8_t *a                  # unit_bytes each (BLOCK_BYTES at least), in one block with this
    uint8_t *b
    uint8_t *sample             # SAMPLE_BYTES
    uint8_t *packed             # SAMPLE_BYTES

# What is remembered of a neighbourhood, unpacked.
cdef struct Memory:
    uint32_t variant            # 0..RAW
    uint32_t doubt              # units to be looked at before it is believed
    uint32_t expected           # size after / size before, in 1/1024
    uint32_t cooldown           # surprises still to be ignored
    uint32_t backoff            # the next cooldown is 2**backoff

ctypedef AutoSettings *AutoSettingsP
ctypedef AutoContext *AutoContextP
ctypedef Memory *MemoryP
ctypedef const uint8_t *BytesP

cdef bint recall(AutoSettings *s, uint64_t hint, Memory *m) noexcept nogil
cdef void remember(AutoSettings *s, uint64_t hint, Memory *m) noexcept nogil
cdef int32_t try_variant(AutoContext *c, uint32_t variant, const uint8_t *src, uint32_t n,
                         uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef int32_t look(AutoContext *c, const uint8_t *src, uint32_t n, uint64_t hint, Memory *m) noexcept nogil
cdef int32_t pack(AutoContext *c, uint32_t variant, const uint8_t *src, uint32_t n,
                  uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil

cdef int32_t auto_compress(void *context, const uint8_t *src, uint32_t n,
                           uint8_t *dst, uint32_t cap, uint64_t hint) noexcept nogil
cdef int32_t auto_decompress(void *context, const uint8_t *src, uint32_t n,
                             uint8_t *dst, uint32_t cap) noexcept nogil
cdef void *auto_context_new(void *self, uint32_t unit_bytes) noexcept nogil
cdef void auto_context_free(void *context) noexcept nogil

cdef class AutoCodec(Codec):
    cdef AutoSettings settings
    cdef readonly Codec inner
