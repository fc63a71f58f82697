# Units from RAM to the swap file, in batches, compressed as they are.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from coldmem.zswap.state cimport BATCH_UNITS_MAX, WorkContext, ZswapC

cdef struct Item:               # a unit on its way
    uint64_t slot
    uint64_t handle
    uint64_t checksum
    int64_t offset
    uint32_t entry
    uint32_t length
    uint32_t charge             # bytes in the swap file
    uint32_t group              # that swap was charged to
    int32_t written             # reached the file

cdef struct Batch:
    Item item[BATCH_UNITS_MAX]
    uint32_t n
    uint32_t bytes              # sum of charge
    int32_t full                # the next unit does not fit in the buffer
    # what came of it
    uint32_t scanned
    uint32_t written
    uint32_t raced              # read, overwritten or removed meanwhile: left in RAM
    uint32_t failed             # no room in the swap file, or a write error: left in RAM
    uint64_t freed_bytes

ctypedef Item *ItemP
ctypedef const uint8_t *U8CP
ctypedef Batch *BatchP

cdef void batch_init(Batch *b) noexcept nogil
# Take up to `quota` of the coldest units of `group` in one shard. Referenced ones get a second
# chance (not when `force`); at most `scan` units are looked at.
cdef void batch_gather(ZswapC *z, Batch *b, uint32_t shard, uint32_t group, uint32_t quota,
                       uint32_t scan, bint force) noexcept nogil
# Write what was gathered and let go of the RAM copies. Always ends with nothing gathered.
cdef void batch_write(ZswapC *z, Batch *b, WorkContext *w) noexcept nogil
cdef void batch_place(ZswapC *z, Batch *b, WorkContext *w) noexcept nogil
cdef bint batch_flush(ZswapC *z, Batch *b, WorkContext *w, uint32_t first, uint32_t end,
                      uint64_t n) noexcept nogil
cdef void item_copy(ZswapC *z, Item *item, uint8_t *dst) noexcept nogil
cdef void item_finish(ZswapC *z, Batch *b, Item *item) noexcept nogil
