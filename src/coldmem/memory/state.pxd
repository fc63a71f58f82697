# What managed memory is made of. No functions but those that read a word.
#
# Lock order: a WorkContext of the Zswap (the door) -> the lock bit of units, in order of address
# -> locks of the Zswap. Span.lock is a leaf. Whoever works on units holds a context, so whoever
# holds all contexts (fork, close) is alone.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport a64_load_rlx, a64_store_rlx
from coldmem.linux.lock cimport Mutex, RwLock
from coldmem.zswap.state cimport CONTEXTS_MAX, ZswapC

# One word per unit, changed by compare-and-swap:
#   pins:16 at 48 | evicted:24 at 16 | hint:2 at 14 | chance:6 at 8 | level:2 at 5 | PROTECTED | LOCK
#   | state:3
# All but pins changes under LOCK only, chance excepted, which the sweep lowers without it.
cdef enum State:
    FREE = 0                    # belongs to no array
    NONE = 1                    # never touched: reads as zeros
    RESIDENT = 2                # the page is there, and nothing else
    CLEAN = 3                   # the page is there, write-protected, and its copy is in the Zswap
    STORED = 4                  # in the Zswap only

cdef enum:
    STATE_MASK = 7
    LOCK = 1 << 3
    PROTECTED = 1 << 4          # RESIDENT, write-protected: about to be compressed
    LEVEL_SHIFT = 5             # how often it came back soon after it had left, of late
    LEVEL_MASK = 3
    CHANCE_SHIFT = 8            # sweeps that it is still spared
    CHANCE_MASK = 63
    HINT_SHIFT = 14
    HINT_MASK = 3
    SEQ_SHIFT = 16
    SEQ_MASK = 0xFFFFFF
    PIN_SHIFT = 48
    PINS_MAX = 0xFFFF

cdef enum Hint:
    HINT_NORMAL = 0
    HINT_SEQUENTIAL = 1
    HINT_RANDOM = 2

cdef enum:
    RUN_BYTES = 1 << 18         # most that one fault brings in
    WINDOW_UNITS = 8192         # units that one sweep looks at
    BATCH_UNITS = 256           # and takes at most
    STREAMS = 16
    AHEAD_BYTES = 1 << 20       # how far the readahead thread goes beyond a stream
    SPAN_CLASSES = 512

# Of one working context, so of one thread at a time: counts need no atomic add, see `count`.
cdef struct Counts:
    uint64_t faults
    uint64_t fills              # first touches
    uint64_t loads              # units decompressed
    uint64_t readahead          # of these and the fills: not asked for yet
    uint64_t write_faults       # of clean or protected units
    uint64_t spurious           # somebody else had done it
    uint64_t compressed         # units stored
    uint64_t reused             # units dropped whose copy was still good
    uint64_t stripped           # copies given up so that their unit can stay
    uint64_t avoidable          # faults that would not have been, without the copies
    uint64_t wanted             # the same, had all of the pool been recompressed
    uint64_t dropped            # units that left
    uint64_t refused            # units that could not be stored
    uint64_t direct             # sweeps in a faulting thread
    uint64_t background
    uint64_t overshoots         # charges above the limit, since nothing could be freed
    uint64_t waits              # for a unit in another thread's hands
    uint64_t failed             # faults that could not be served
    uint64_t fill0

ctypedef Counts *CountsP

cdef struct Place:              # per WorkContext, by its index
    uint8_t *run                # RUN_BYTES, made when first needed
    uint32_t *units             # BATCH_UNITS numbers and as many words
    uint64_t *words
    uint64_t loads_kept         # rotates which load keeps its copy
    Counts counts
    uint64_t fill[9]

cdef struct Stream:             # racy hints: a lost update costs a readahead
    uint64_t next
    uint64_t window

cdef struct Span:               # free runs of units, by class of length
    Mutex lock
    uint64_t end                # units below were handed out at some time
    uint64_t free[SPAN_CLASSES]

cdef struct MemoryC:
    # constant once made
    ZswapC *z
    uint8_t *base               # until it is closed: atomic for the hook, which looks then, too
    uint64_t *words             # one per unit
    uint64_t *spans             # at the first unit of a span: its length; while free: the next one
    uint8_t *zeros              # RUN_BYTES of zeros
    uint64_t units_max          # as base
    uint64_t unit_bytes
    uint32_t unit_shift
    int32_t fd
    int32_t sigbus              # 1: the faulting thread serves itself; 0: handler threads
    int32_t rights
    uint64_t limit_bytes        # memory_max
    uint64_t hard_bytes         # less what a batch may need
    uint64_t low_bytes          # above this the reclaimer wakes
    uint64_t high_bytes         # and works until it is below this
    uint64_t keep_bytes         # most that copies of clean units may take
    uint64_t fixed_bytes        # metadata that does not grow
    Place *places
    uint64_t fill0[8]
    # changes often: atomics
    uint64_t hot_bytes          # of pages that are there
    uint64_t hand               # where the next sweep begins
    uint64_t evicted            # units, a clock for refaults
    uint64_t clean_units
    uint64_t pinned_units
    uint64_t array_bytes        # of live arrays
    uint64_t arrays
    uint64_t peak_bytes         # of the footprint
    int64_t no_room_bytes       # nothing could be freed: so much may be charged before the next try
    uint64_t handlers           # a bit for each CPU that has a handler thread; constant once they run
    uint64_t readers            # of these: who waits for faults; see follow.py
    int32_t readers_turn        # futex: changes with it
    int32_t faulter             # thread of the last fault
    int32_t faulter_same        # looks since another one faulted
    int32_t predictor           # > 0: what is loaded tends to be written
    int32_t keep_score          # copies of loaded units: reused, less refaults that their room costs
    int32_t barren              # sweeps in a row in which nothing could go
    int32_t exclusive           # 1: they are not kept, and those of warm units are given up
    int32_t reclaimer           # futex: Reclaimer
    int32_t reclaimer_runs
    int32_t stop
    int32_t closing             # no more allocations
    int32_t lost                # in a forked child: -errno where it got no userfaultfd
    uint64_t cool_reach         # a refault at a smaller distance is `wanted`
    uint64_t ahead              # unit from which a stream goes on
    int32_t ahead_state         # futex: Ahead
    int32_t ahead_runs          # futex: 1 until the loop has left
    int32_t cool_runs           # the same of the recompressor
    int32_t fill01
    uint64_t fill1[8]
    RwLock protecting           # see reclaim.py
    Stream streams[STREAMS]
    int32_t stream_turn
    uint32_t fill2
    Span span

cdef enum Reclaimer:
    RECLAIMER_NONE = 0
    RECLAIMER_IDLE = 1
    RECLAIMER_WOKEN = 2

cdef enum Ahead:
    AHEAD_NONE = 0              # no thread
    AHEAD_AWAKE = 1
    AHEAD_ASLEEP = 2

# Errors of faults.
cdef enum FaultError:
    FAULT_OK = 0
    FAULT_FOREIGN = -1          # not an address of a live array
    FAULT_CLOSED = -2
    FAULT_LOAD = -3             # what was stored cannot be read back
    FAULT_KERNEL = -4           # the kernel refused to map a page
    FAULT_TAKEN = -5            # as FAULT_LOAD, in a forked child: the parent has used the room again

ctypedef MemoryC *MemoryP
ctypedef Place *PlaceP


cdef inline uint64_t word_state(uint64_t w) noexcept nogil:
    return w & STATE_MASK

cdef inline uint64_t word_with(uint64_t w, uint64_t state) noexcept nogil:
    return (w & ~<uint64_t> (STATE_MASK | PROTECTED)) | state

cdef inline uint64_t word_chance(uint64_t w) noexcept nogil:
    return (w >> CHANCE_SHIFT) & CHANCE_MASK

cdef inline uint64_t word_with_chance(uint64_t w, uint64_t chance) noexcept nogil:
    return (w & ~(<uint64_t> CHANCE_MASK << CHANCE_SHIFT)) | (chance << CHANCE_SHIFT)

cdef inline uint64_t word_level(uint64_t w) noexcept nogil:
    return (w >> LEVEL_SHIFT) & LEVEL_MASK

cdef inline uint64_t word_with_level(uint64_t w, uint64_t level) noexcept nogil:
    return (w & ~(<uint64_t> LEVEL_MASK << LEVEL_SHIFT)) | (level << LEVEL_SHIFT)

cdef inline uint64_t word_pins(uint64_t w) noexcept nogil:
    return w >> PIN_SHIFT

cdef inline uint64_t word_seq(uint64_t w) noexcept nogil:
    return (w >> SEQ_SHIFT) & SEQ_MASK

cdef inline uint64_t word_with_seq(uint64_t w, uint64_t seq) noexcept nogil:
    return (w & ~(<uint64_t> SEQ_MASK << SEQ_SHIFT)) | ((seq & SEQ_MASK) << SEQ_SHIFT)

cdef inline uint64_t word_hint(uint64_t w) noexcept nogil:
    return (w >> HINT_SHIFT) & HINT_MASK

cdef inline uint8_t *unit_at(MemoryC *m, uint64_t unit) noexcept nogil:
    return m.base + (unit << m.unit_shift)

# Slots are addresses, so that neighbours in memory are neighbours for the codec picker.
cdef inline uint64_t slot_of(MemoryC *m, uint64_t unit) noexcept nogil:
    return unit

# Of a thread's own counter, which others may read at any time.
cdef inline void count(uint64_t *counter, uint64_t n) noexcept nogil:
    a64_store_rlx(counter, a64_load_rlx(counter) + n)
