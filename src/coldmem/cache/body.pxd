# Values in the pool, in one object or in pieces; and what is told about entries that went.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.cache.state cimport Body, CacheC, Context, DiskKey, Entry, Key, Shard

# A Body with the key, room for `chunks` chunks, and no pieces yet; NULL: no room.
cdef Body *body_new(CacheC *c, Key *key, uint64_t length, uint32_t chunks) noexcept nogil
# The same from the bytes of a key with its kind in front.
cdef Body *body_make(CacheC *c, const uint8_t *key, uint32_t key_bytes, uint64_t length,
                     uint32_t chunks) noexcept nogil
# NULL: the system has no memory. The account is not asked: what leaves RAM for it is larger.
cdef DiskKey *disk_key_new(CacheC *c, const uint8_t *key, uint32_t key_bytes) noexcept nogil
cdef void disk_key_free(CacheC *c, DiskKey *d) noexcept nogil
cdef uint64_t disk_key_bytes(uint32_t key_bytes) noexcept nogil
# Append stored bytes from `done` on; False: no room, and `done` says how far it came.
cdef bint body_append(CacheC *c, Body *b, const uint8_t *data, uint32_t n, uint32_t *done) noexcept nogil
cdef void body_finish(CacheC *c, Body *b) noexcept nogil
cdef void body_free(CacheC *c, Body *b) noexcept nogil
# Gather the stored bytes of the chunk whose first piece is *piece; *piece moves on.
cdef void body_gather(CacheC *c, Body *b, uint32_t chunk, uint32_t *piece, uint8_t *out) noexcept nogil
# Fill out[0:b.length]: 0, or -1.
cdef int body_decode(CacheC *c, Context *w, Body *b, uint32_t codec, uint8_t *out) noexcept nogil
cdef uint64_t body_bytes(Body *b) noexcept nogil

# The key of an entry with its kind in front. Shard lock held.
cdef bytes entry_key(CacheC *c, Entry *e)
cdef bint body_key(CacheC *c, Entry *e, Key *key) noexcept nogil
# What the entry counts for in its queue: memory, or bytes on disk.
cdef uint64_t entry_weight(CacheC *c, Entry *e) noexcept nogil
cdef uint64_t entry_length(Entry *e) noexcept nogil
cdef uint64_t entry_stored(CacheC *c, Entry *e) noexcept nogil
# Forget what the entry holds in memory; it must be in no queue. Shard lock held. A pinned Body is left
# to its last reader.
cdef void entry_empty(CacheC *c, Shard *s, Entry *e) noexcept nogil
# Forget the place on disk that the entry has. Shard lock held. EV_GONE: nothing newer of its key is there
# or follows, so what lies there must not be back later.
cdef void place_drop(CacheC *c, Shard *s, Entry *e, uint32_t event) noexcept nogil
cdef void event_put(CacheC *c, uint32_t event, Entry *e) noexcept nogil
cdef void _event(CacheC *c, uint32_t event, const uint8_t *data, uint32_t n) noexcept nogil
