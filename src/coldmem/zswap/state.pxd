# What a Zswap is made of: the structures that the modules of this package share. No functions.
#
# Lock order: Zswap.admin -> WorkContext.busy -> Shard.lock -> nothing. The locks of pool, codec and
# swap file are taken with no shard lock held. Whoever is inside a call holds a WorkContext, so
# whoever holds all of them (close, set_codec) is alone.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport CodecC
from coldmem.linux.lock cimport Mutex
from coldmem.zsmalloc.arena cimport Budget
from coldmem.zsmalloc.pool cimport PoolC
from coldmem.zswap.swapfile cimport SwapFileC

cdef enum:
    CODECS_MAX = 16             # codecs in use at one time; 0 stands for "stored as it came"
    CODEC_NONE = 0
    GROUPS_MAX = 1024
    GROUP_ROOT = 0              # has no limits and is never charged
    CONTEXTS_MAX = 64
    METADATA_BYTES = 80         # of each stored unit: its entry and its share of the index
    BATCH_UNITS_MAX = 64        # of one writeback
    BATCH_BYTES = 262144        # of one writeback, or four units where that is more

# What the C functions return when they cannot do it.
cdef enum ZswapError:
    ZW_OK = 0
    ZW_NOT_FOUND = -1           # load: nothing under this slot
    ZW_FULL = -2                # store: the pool is full and nothing could be written back
    ZW_ALLOC = -3               # store: no memory, although the pool is below its limit
    ZW_ENTRIES = -4             # store: the entry table is full
    ZW_GROUP = -5               # store: a limit of the group or of one above it
    ZW_COMPRESS = -6            # store: the codec failed
    ZW_POOR = -7                # store: incompressible, and such units are refused here
    ZW_READ = -8                # load: the swap file cannot be read; WorkContext.errno_seen says why
    ZW_CORRUPT = -9             # load: what was read has another checksum
    ZW_DECOMPRESS = -10         # load: the codec failed
    ZW_CONTEXT = -11            # no memory for a codec's working memory

cdef enum EntryState:
    ENTRY_FREE = 0
    ENTRY_SAME = 1              # one word repeated: no object, not on the LRU
    ENTRY_RAM = 2
    ENTRY_DISK = 3

# One stored unit, one cache line. The table is type-stable: an entry is only ever reused as an entry.
# Everything but refs is guarded by the lock of its shard while the entry is linked; once unlinked
# it no longer changes, and whoever drops the last reference frees it.
cdef struct Entry:
    uint64_t slot
    uint64_t body               # RAM: handle; SAME: the word; DISK: offset in the swap file
    uint64_t checksum           # DISK: of the bytes as stored, seeded with the slot
    int32_t refs                # atomic; 1 is the index's. Raised under the shard lock only
    uint32_t length             # bytes as stored; unit_bytes: stored raw
    uint32_t prev               # LRU, towards the most recent
    uint32_t next               # LRU, towards the coldest; next free entry while free
    uint16_t group
    uint8_t state
    uint8_t codec               # what decompresses it; CODEC_NONE: copy `length` bytes
    uint8_t referenced          # REFERENCED and RECENT: set by each store and load
    uint8_t writeback           # being written back
    uint8_t linked              # is in the index
    uint8_t cold                # 1: recompressed, or that gained nothing
    uint64_t fill[2]

cdef enum:
    REFERENCED = 1              # writeback's second chance
    RECENT = 2                  # used since recompression passed last

# LRU and counts of one group in one shard. Guarded by the shard lock; the counts are stored
# atomically, so that statistics read them without it. Live counts are of linked entries.
cdef struct GroupLru:           # 128 bytes
    uint32_t head               # most recently stored; 0: empty
    uint32_t tail               # next to go
    uint64_t protected_units    # the 6.11 rule
    uint64_t same_units
    uint64_t ram_units          # = length of the LRU
    uint64_t raw_units          # of these: stored raw
    uint64_t disk_units
    uint64_t ram_bytes
    uint64_t disk_bytes         # as the swap file charges them
    uint64_t stores
    uint64_t loads
    uint64_t disk_loads         # of these: from the swap file
    uint64_t written_back
    uint64_t raw_stores
    uint64_t same_stores
    uint64_t cold_loads         # of what the cold codec packed
    uint32_t walk               # where recompression goes on; 0: at the tail
    int32_t cold_units          # of ram_units: recompressed

cdef struct Shard:
    Mutex lock                  # guards all of the shard, its GroupLrus and its linked entries
    uint64_t *cells             # open addressing: hash tag << 32 | entry; 0: empty
    uint32_t cells_mask
    uint32_t used               # linked entries
    uint32_t free               # list of free entries, through next
    uint32_t free_units
    uint64_t rehashes           # of the index
    uint64_t codec_units[CODECS_MAX]    # linked entries by codec; stored atomically
    uint64_t fill[8]

# A memory cgroup in small. Limits and charges: atomic; charges are summed along the parents. state
# and parent are changed by whoever is alone (holds all contexts).
cdef struct GroupC:             # 256 bytes: what is read often, then what is written often
    uint64_t memory_max         # compressed + metadata + hot; UINT64_MAX: no limit
    uint64_t zswap_max          # compressed
    uint64_t swap_max           # in the swap file
    int32_t writeback
    int32_t state               # GroupState
    int32_t parent
    int32_t children            # live groups right below it; Zswap.admin
    uint64_t fill0[11]
    uint64_t memory_bytes
    uint64_t zswap_bytes
    uint64_t swap_bytes
    uint64_t hot_bytes          # part of memory_bytes that another layer charged
    uint64_t swapins            # disk loads not yet held against the shrinker's count
    uint64_t reject_limit       # stores refused because of a limit of this group
    uint64_t writeback_fail     # writebacks refused because of swap_max
    uint64_t fill1[9]

cdef enum GroupState:
    GROUP_FREE = 0
    GROUP_LIVE = 1
    GROUP_DEAD = 2              # removed; its units are moving to its parent, its id is kept until then

# Working memory of one call at a time.
cdef struct WorkContext:        # 256 bytes
    int32_t busy                # atomic: 0 or 1
    int32_t errno_seen          # of the last ZW_READ
    uint32_t index
    uint32_t cold_seen          # 1: the last load was of a recompressed unit
    uint8_t *scratch            # unit_bytes and a little
    uint8_t *batch              # batch_bytes, made by the first writeback in this context
    void *codec_context[CODECS_MAX]     # made when first needed
    uint32_t stored_bytes       # of the unit that was last stored or loaded: 0 for one word repeated
    uint32_t fill0
    uint64_t fill[11]

# Rare events; atomic adds.
cdef struct Events:
    uint64_t pool_limit_hit
    uint64_t reject_reclaim_fail
    uint64_t reject_alloc_fail
    uint64_t reject_kmemcache_fail
    uint64_t reject_compress_fail
    uint64_t reject_compress_poor
    uint64_t reject_group_limit
    uint64_t decompress_fail
    uint64_t checksum_fail
    uint64_t read_fail
    uint64_t writeback_fail     # units that a failed write, or a full swap file, left in RAM
    uint64_t write_errors       # failed writes
    uint64_t writeback_raced    # units given up in writeback: read, overwritten or removed meanwhile
    uint64_t direct_reclaims
    uint64_t shrinker_wakeups
    uint64_t compactions
    uint64_t recompressed       # units made smaller by the cold codec
    uint64_t internal_errors    # a pool refused a free: never happens, check_valid reports it
    uint64_t fill[6]

cdef enum ShrinkerState:
    SHRINKER_NONE = 0           # no thread
    SHRINKER_IDLE = 1
    SHRINKER_WOKEN = 2
    SHRINKER_STOP = 3

cdef struct ZswapC:
    # constant once made
    uint32_t unit_bytes
    uint32_t compress_cap       # a longer result is stored raw: it would take a whole unit anyway
    uint32_t pools_n
    uint32_t shards_mask
    PoolC **pools
    Budget *budget              # of all pools together
    SwapFileC *swap             # NULL: none
    Shard *shards
    GroupLru *lrus              # [group * shards + shard]
    GroupC *groups
    WorkContext *contexts
    Entry *entries              # index 0 is unused
    uint32_t entries_max
    uint32_t entries_chunk      # handed to a shard at once
    uint64_t max_pool_bytes
    uint64_t accept_bytes       # not full any more at or below this
    uint64_t wake_bytes         # above this the shrinker starts
    uint32_t batch_bytes
    int32_t refuse_when_full    # on_full="reject"
    int32_t refuse_poor         # incompressible="reject"
    int32_t protected_rule      # shrinker="protected"
    int32_t owner_pid
    int32_t counting            # lock statistics
    int32_t cold_codec          # what stays cold is recompressed with it; 0: nothing is
    int32_t fill00
    CodecC *codecs[CODECS_MAX]  # [0] is unused; changed by whoever holds all contexts
    uint64_t fill0[7]
    # rarely written
    int32_t codec               # atomic: id for new stores
    int32_t closed              # atomic
    int32_t door                # atomic, futex: 1 while somebody wants to be alone
    int32_t fill1a
    int32_t full                # atomic: at the limit, waiting to come under accept_bytes
    uint32_t groups_end         # ids from here on were never used; changed by whoever is alone
    Mutex admin                 # groups made and removed, codecs changed, close
    uint64_t fill1[9]
    # written now and then
    uint64_t entries_next       # atomic: entries handed to shards so far
    uint64_t cursor             # atomic: shard where the next reclaim looks
    uint64_t group_cursor       # atomic: and group
    int32_t shrinker            # atomic, futex: ShrinkerState
    int32_t shrinker_runs       # atomic, futex: 1 until the loop has left
    int32_t never               # 0 always: a futex to sleep on for a while
    int32_t fill2
    uint64_t index_bytes        # atomic: cells of all indexes
    uint64_t fill3[10]
    Events events

ctypedef Entry *EntryP
ctypedef GroupLru *GroupLruP
ctypedef Shard *ShardP
ctypedef GroupC *GroupP
ctypedef WorkContext *WorkContextP
ctypedef ZswapC *ZswapP
