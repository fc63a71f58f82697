# Executable invariants. The caller is alone: it holds Zswap.admin and all contexts.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.zswap.state cimport Shard, ZswapC

cdef struct Finding:
    const char *what            # NULL: nothing wrong
    uint32_t shard
    uint32_t group
    uint64_t slot

cdef struct Sums:               # of one group, recounted from the entries
    uint64_t same_units
    uint64_t ram_units
    uint64_t raw_units
    int32_t cold_units
    uint64_t disk_units
    uint64_t ram_bytes
    uint64_t disk_bytes

ctypedef Finding *FindingP
ctypedef Sums *SumsP

cdef void zswap_check(ZswapC *z, bint full, Finding *out) noexcept nogil
cdef bint check_shard(ZswapC *z, uint32_t shard, Finding *out) noexcept nogil
cdef bint check_entries(ZswapC *z, uint32_t shard, Sums *sums, Finding *out) noexcept nogil
cdef bint check_lrus(ZswapC *z, uint32_t shard, Sums *sums, Finding *out) noexcept nogil
cdef bint check_charges(ZswapC *z, Sums *all, Finding *out) noexcept nogil
cdef bint wrong(Finding *out, const char *what, uint32_t shard, uint32_t group, uint64_t slot) noexcept nogil
