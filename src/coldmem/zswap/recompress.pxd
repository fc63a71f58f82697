# Units that stay cold, packed once more with a slower codec that makes them smaller.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.zswap.entry cimport Held
from coldmem.zswap.lru cimport GroupLru
from coldmem.zswap.state cimport WorkContext, ZswapC

cdef struct Recompressed:
    uint32_t scanned            # entries looked at
    uint32_t units              # made smaller
    uint64_t freed_bytes
    int32_t end                 # 1: the pass over this list is complete

ctypedef Recompressed *RecompressedP

# What an entry was when its reference was taken.
cdef struct Cold:
    uint64_t slot
    uint64_t body
    uint32_t length
    uint32_t codec
    uint32_t group

ctypedef Cold *ColdP

# Go on with the pass over the list of a group in a shard: look at `scan` entries, and recompress up to
# `want` that were not used since the pass before. Adds to *out.
cdef void recompress_some(ZswapC *z, uint32_t shard, uint32_t group, uint32_t scan, uint32_t want,
                          WorkContext *w, Recompressed *out) noexcept nogil
# One whole pass over all lists. With `all`, also what was used lately.
cdef void recompress_pass(ZswapC *z, bint all, WorkContext *w, Recompressed *out) noexcept nogil
# Parts of it: the next unit to be packed, with a reference, or 0; what became of it.
cdef uint32_t _next(ZswapC *z, uint32_t shard, GroupLru *l, uint32_t *scan, Cold *copy,
                    Recompressed *out) noexcept nogil
cdef int _pack(ZswapC *z, Cold *copy, WorkContext *w) noexcept nogil
cdef bint _replace(ZswapC *z, uint32_t entry, Cold *copy, uint64_t handle, uint32_t n,
                   Held *old) noexcept nogil
