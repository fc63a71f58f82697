# The structs of the cache, and the lock order.
#
# Lock order: shard lock -> contexts lock | events lock | locks of the pool. One shard lock at a time.
# The GIL may be held when any of them is taken, so nobody may wait for the GIL while holding one.
from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from coldmem.codecs.codec cimport CodecC
from coldmem.linux.lock cimport Mutex
from coldmem.zsmalloc.core cimport PoolC

cdef enum:
    CODECS_MAX = 250            # numbers are one byte
    CHUNK_BYTES = 65536         # what is compressed at once
    PIECE_BYTES = 4096          # largest object of the pool: what is longer lies in pieces
    KEY_ROOM = 1024             # a longer key lies in a Body, not in the object with its value
    ENTRIES_PER_BLOCK = 256

cdef enum:
    CODEC_RAW = 0               # numbers above are given out by Core.add_codec

cdef enum EntryState:
    E_FREE = 0
    E_SMALL = 1                 # body: handle of one object, key and payload
    E_LARGE = 2                 # body: a Body with pieces
    E_DISK = 3                  # body: a DiskKey

cdef enum:                      # queues
    Q_NONE = 0                  # being written to disk
    Q_SMALL = 1                 # S3-FIFO: seen once
    Q_MAIN = 2                  # S3-FIFO: seen again; LRU: all
    Q_DISK = 3                  # on disk only, least recently used first
    QUEUES = 4

cdef enum EntryFlag:
    F_ON_DISK = 1               # segment, offset and disk_bytes are where it is on disk
    F_TABLE = 2                 # the payload on disk begins with a table of chunks
    F_OLD_PLACE = 4             # not F_ON_DISK: there lies an older value, until this one is written
    F_PLACE = 5                 # either

cdef enum Policy:
    POLICY_S3FIFO = 0
    POLICY_LRU = 1
    POLICY_EXTERNAL = 2         # somebody else says what goes

cdef enum Event:
    EV_MEMORY = 1               # evicted: no room in RAM
    EV_DISK = 2                 # evicted: no room on disk
    EV_EXPIRED = 3
    EV_REMOVED = 4              # by the caller; told for keys of the side table only
    EV_PLACE = 9                # a newer value of a key is on disk: the older one's place, three words
    EV_GONE = 10                # an entry has gone: its place on disk, or that of an older value

# All of it is guarded by the shard's lock.
cdef struct Entry:
    uint64_t body               # see EntryState
    uint32_t hash               # low half
    uint32_t segment
    uint32_t offset
    uint32_t disk_bytes
    uint32_t length             # bytes of the value
    uint32_t chain              # next in the bucket; next free entry
    uint32_t prev               # towards the newest of the queue
    uint32_t next
    uint32_t expires            # tick, 0: never
    uint32_t hot                # 1 + place in the shard's table of hot copies
    uint16_t key_bytes          # E_SMALL: with the kind in front
    uint8_t state
    uint8_t queue
    uint8_t use                 # hits, up to 3
    uint8_t codec               # of the payload; of its chunks that are not raw
    uint8_t kind                # of the value; the cache hands it back
    uint8_t flags

# A value in pieces. One malloc for the struct, handles, table, key.
cdef struct Body:
    int32_t pins                # readers; shard lock
    int32_t dead                # no entry has it: the last reader frees it; shard lock
    uint64_t length             # of the value
    uint64_t serial             # no other Body of this cache has it
    uint64_t stored             # bytes of payload
    uint32_t pieces             # handles
    uint32_t chunks
    uint32_t key_bytes
    uint32_t filled             # handles that are set
    uint64_t *handles
    uint32_t *table             # stored bytes per chunk; bit 31: raw
    uint8_t *key

# What stays in memory of a value on disk, beside its entry.
cdef struct DiskKey:
    uint32_t key_bytes
    uint8_t key[4]              # and more

cdef struct Fifo:
    uint32_t newest
    uint32_t oldest
    uint64_t bytes
    uint64_t count

cdef struct HotCopy:
    uint8_t *data
    uint32_t entry              # 0: the place is free
    uint32_t used

cdef struct Shard:
    Mutex lock                  # guards all that follows
    uint32_t *buckets
    uint32_t mask
    uint32_t count
    Entry **blocks              # entry i is blocks[i / 256][i % 256]; entry 0 is unused
    uint32_t blocks_count
    uint32_t blocks_room
    uint32_t end                # entries handed out so far
    uint32_t free_head
    Fifo queues[4]
    uint64_t *ghost             # fingerprint << 32 | main << 31 | clock; 0: empty
    uint32_t clock              # evictions
    uint32_t share              # of the small queue, in 1/1024
    uint32_t gone[2]            # evictions from small and main since the last change of share
    uint32_t back[2]            # of these, seen again
    HotCopy *hot
    uint32_t hot_count          # places ever used
    uint32_t hot_room
    uint32_t hot_hand
    uint32_t hot_free           # entries of the table that are free
    uint64_t hot_bytes
    uint64_t ticks              # of admission
    # counters
    uint64_t original_bytes
    uint64_t stored_bytes       # RAM
    uint64_t disk_bytes
    uint64_t hits
    uint64_t hits_hot
    uint64_t hits_disk
    uint64_t misses
    uint64_t sets
    uint64_t deletes
    uint64_t evictions
    uint64_t expirations
    uint64_t fill[8]

# Working memory of one call.
cdef struct Context:
    Context *next
    void *made[CODECS_MAX]      # what each codec made for us
    uint8_t *gather             # CHUNK_BYTES: input that lies in parts, or compressed pieces
    uint8_t *room               # KEY_ROOM + CHUNK_BYTES + slack; output begins at `out`
    uint8_t *out

cdef struct CacheC:
    PoolC *pool
    Shard *shards
    uint32_t shards_mask
    uint32_t policy
    uint64_t memory_max
    uint64_t meta_bytes         # atomic: all memory that is not the pool's
    uint64_t hot_max            # per shard; that much is on the account from the beginning
    uint64_t cursor             # atomic: the shard that loses next
    uint64_t entries            # atomic
    uint64_t bodies             # atomic: made so far
    CodecC *codecs[CODECS_MAX]  # atomic words; set once
    uint64_t users[CODECS_MAX]  # atomic: entries that need the codec; values to be one
    Mutex contexts_lock
    Context *contexts           # not in use
    uint64_t contexts_idle      # contexts_lock
    uint64_t contexts_made      # contexts_lock: idle or in use
    Mutex events_lock
    uint8_t *events
    uint64_t events_bytes       # atomic; written under events_lock
    uint64_t events_room
    uint64_t events_lost
    int32_t want_events         # atomic: somebody hears of evictions
    int32_t have_disk           # atomic: nothing is evicted here, the caller makes room
    int32_t lossless            # atomic: likewise
    int32_t keep_places         # atomic: a place on disk stays when the entry comes back to RAM
    uint64_t clock_shift        # for tests: ticks added to the time
    uint64_t birth_ns

ctypedef CacheC *CacheP
ctypedef Shard *ShardP
ctypedef Entry *EntryP
ctypedef Entry **EntryPP
ctypedef Body *BodyP
ctypedef DiskKey *DiskKeyP
ctypedef Context *ContextP
ctypedef Fifo *FifoP
ctypedef HotCopy *HotCopyP
ctypedef CodecC *CodecP
ctypedef const uint8_t *U8CP
ctypedef uint8_t *U8P
ctypedef uint32_t *U32P
ctypedef uint64_t *U64P
ctypedef int32_t *I32P

# A key, for the length of one call.
cdef struct Key:
    uint64_t hash
    const uint8_t *data         # after the kind
    uint32_t n                  # bytes of data
    uint8_t kind
    uint8_t number[8]           # where data points for integers
ctypedef Key *KeyP

cdef inline Entry *entry_at(Shard *s, uint32_t i) noexcept nogil:
    return &s.blocks[i // ENTRIES_PER_BLOCK][i % ENTRIES_PER_BLOCK]
