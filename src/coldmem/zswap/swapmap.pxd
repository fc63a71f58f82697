# The space map of the swap file as C sees it. Not thread-safe: the owner's lock guards all of it.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

cdef enum:
    RUN_MAX = 16                # granules of a unit: the longest run that is ever asked for
    LEVELS_MAX = 6
    REGION_SHIFT = 20           # disk space goes back in regions of 1 MiB

cdef struct SwapMap:
    uint32_t granule_shift      # constant: bytes of a granule = 1 << this
    uint32_t region_shift       # constant: words of a region = 1 << this
    uint32_t levels             # constant
    uint32_t fill0
    uint64_t granules_max       # constant: the map never goes beyond
    uint64_t words_max          # constant
    uint64_t words_n            # the words that exist so far; whole regions, or words_max
    uint64_t used               # granules in use
    uint64_t cursor             # granule at which the next search begins
    uint64_t *words             # bit set: granule in use
    uint64_t *level[LEVELS_MAX] # run trees, see swapmap.py
    uint64_t groups[LEVELS_MAX] # constant: groups of 64 in each level
    uint32_t *regions           # per region: granules in use, and the REGION_ flags
    uint64_t *pending           # bit per region: free, not busy, and touched since the last punch
    uint64_t pending_words      # constant
    uint64_t pending_n
    uint64_t pending_cursor     # word of `pending` at which the next take begins
    void *base                  # the one mapping that holds all arrays
    uint64_t base_bytes

ctypedef SwapMap *SwapMapP

# What map_check found.
cdef enum MapFault:
    MAP_OK = 0
    MAP_RUNS = 1                # the run trees disagree with a word
    MAP_TREE = 2                # a level of the run trees disagrees with the one below
    MAP_REGION = 3              # the count of a region disagrees with its words
    MAP_PENDING = 4             # the pending bit or count disagrees with the regions
    MAP_USED = 5                # the total disagrees with the words
    MAP_BEYOND = 6              # something is marked beyond the end

cdef int32_t map_init(SwapMap *m, uint32_t unit_bytes, uint64_t bytes_max) noexcept nogil
cdef void map_destroy(SwapMap *m) noexcept nogil
# First granule of a run of k (1..RUN_MAX), or -ENOSPC.
cdef int64_t map_alloc(SwapMap *m, uint32_t k) noexcept nogil
# 0, or -EINVAL when not all of these granules are in use.
cdef int32_t map_free(SwapMap *m, uint64_t first, uint32_t k) noexcept nogil
cdef bint map_in_use(SwapMap *m, uint64_t first, uint64_t count) noexcept nogil
# Up to `room` pending regions in rising order; they are busy (never handed out) until given back.
cdef uint32_t map_take_pending(SwapMap *m, uint64_t *regions, uint32_t room) noexcept nogil
cdef void map_give_back(SwapMap *m, uint64_t region, bint punched) noexcept nogil
cdef int32_t map_check(SwapMap *m, uint64_t *where) noexcept nogil
