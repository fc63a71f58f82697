# Memory for zspages: one reserved range, cut into simulated NUMA nodes, handed out in runs of 1..16
# units, given back in batches.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from coldmem.linux.lock cimport Mutex

cdef enum:
    MAX_CHAIN = 16
    MAX_NODES = 16

# A limit that several arenas (the 32-pool arm) share. used is changed by atomics only.
cdef struct Budget:
    uint64_t used_bytes         # bytes of zspages in use
    uint64_t limit_bytes        # never exceeded
    uint64_t peak_bytes
    uint64_t dirty_bytes        # bytes of free runs that are still resident, of all arenas
    uint64_t dirty_bytes_max    # no more than this stays resident
    uint64_t fill[11]

# Descriptor of a zspage, one cache line. Its memory (mem, units, node) is fixed when it is first made,
# so descriptors are type-stable: a stale reader meets another zspage's descriptor, never garbage.
cdef struct Zspage:
    uint8_t *mem                # constant
    uint64_t huge_handle        # class lock: header of the one object of a huge class
    uint32_t prev               # class lock, or arena lock while free
    uint32_t next               # same
    int32_t readers             # atomic: >0 readers, WRITER while its objects are being moved
    uint32_t freeobj            # class lock: head of the free objects
    uint32_t inuse              # class lock
    uint16_t units              # constant: length of the run
    uint16_t klass              # written before the zspage is published; class of its objects
    uint32_t group              # class lock: fullness group whose list holds it
    uint32_t free               # arena lock: 1 while on a free list of the arena
    uint32_t node               # constant: the node whose range the run lies in
    int32_t owner               # atomic, stored under the class lock: class + 1 while the class has it
    uint32_t fill[2]

# A simulated NUMA node: an equal part of the range, with free runs of its own.
cdef struct ArenaNode:          # arena lock
    uint64_t next_byte          # offset in the arena; nothing of the node is handed out above this
    uint64_t end_byte           # constant
    uint64_t units              # in use
    uint32_t dirty_free[MAX_CHAIN + 1]   # free runs by length, still resident
    uint32_t clean_free[MAX_CHAIN + 1]   # free runs by length, given back to the OS

cdef struct Arena:
    Mutex lock                  # guards all below
    uint8_t *mem
    uint64_t capacity_bytes     # reserved address space
    Zspage *zspages             # index 0 is unused: 0 means none
    uint32_t zspages_end        # indices handed out so far
    uint32_t zspages_max
    uint32_t unit_bytes
    uint32_t node_count         # constant
    uint64_t node_bytes         # constant: length of each node's range
    ArenaNode nodes[MAX_NODES]
    uint64_t dirty_bytes        # its part of the budget's
    uint64_t released_bytes     # total given back so far
    uint64_t release_calls      # system calls that took
    Budget *budget
    Budget own_budget

ctypedef Arena *ArenaP
ctypedef ArenaNode *ArenaNodeP
ctypedef Zspage *ZspageP
ctypedef Budget *BudgetP

# Set the limit, and with it how much free memory stays resident.
cdef void budget_limit(Budget *b, uint64_t limit_bytes) noexcept nogil
cdef int arena_init(Arena *a, uint32_t unit_bytes, uint64_t capacity_bytes, uint32_t nodes,
                    Budget *budget, bint counting) noexcept nogil
cdef void arena_destroy(Arena *a) noexcept nogil
# A run of `units` units on `node`, or on another one if `elsewhere` and that range is used up: a
# zspage index, or 0: the budget or the address space is used up.
cdef uint32_t arena_get(Arena *a, uint32_t units, uint32_t node, bint elsewhere) noexcept nogil
cdef void arena_put(Arena *a, uint32_t zspage) noexcept nogil
# Give every free run back to the OS now; bytes given back.
cdef uint64_t arena_trim(Arena *a) noexcept nogil
