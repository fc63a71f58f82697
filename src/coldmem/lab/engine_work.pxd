# The native loops of `bench engine`: the bare codec, and coldmem, on the same units.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport CodecC
from coldmem.zswap.state cimport ZswapC

ctypedef const uint8_t *constP
ctypedef uint64_t *U64P
ctypedef uint32_t *U32P
ctypedef uint8_t *U8P

# One thread; no locks. The log is where the bare codec keeps its results.
cdef struct EngineC:
    ZswapC *zswap
    CodecC *codec
    void *codec_context
    uint32_t unit_bytes
    uint32_t units_n
    uint32_t cap                # as coldmem passes it to the codec
    uint32_t fill
    const uint8_t *data         # units_n units
    uint32_t *load_order        # both sides load units in this order
    uint8_t *out                # one unit
    uint8_t *log
    uint64_t log_bytes
    uint64_t log_end            # the next result goes here
    uint64_t *log_at            # per unit: where its result is
    uint32_t *log_n             # per unit: its length; unit_bytes: kept as it came
    uint64_t errors

ctypedef EngineC *EngineP

cdef uint64_t cpu_ns() noexcept nogil
cdef void bare_compress(EngineC *e, uint32_t begin, uint32_t end) noexcept nogil
cdef void bare_decompress(EngineC *e, uint32_t begin, uint32_t end) noexcept nogil
cdef void coldmem_store(EngineC *e, uint32_t begin, uint32_t end) noexcept nogil
cdef void coldmem_load(EngineC *e, uint32_t begin, uint32_t end) noexcept nogil
cdef void coldmem_invalidate(EngineC *e, uint32_t begin, uint32_t end) noexcept nogil

cdef class EngineWork:
    cdef EngineC c
    cdef object keep
    cdef object _new_log(self, uint64_t size)
