# Index and entries of a shard. All with the shard's lock held.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.cache.state cimport CacheC, Key, Shard

cdef int table_init(CacheC *c, Shard *s) noexcept nogil
cdef void table_destroy(Shard *s) noexcept nogil
# Number of the entry that has the key, or 0.
cdef uint32_t table_find(CacheC *c, Shard *s, Key *key) noexcept nogil
# See to it that `table_add` finds room: 0, or the bytes for which there is no room on the account.
cdef uint64_t table_room(CacheC *c, Shard *s) noexcept nogil
# A fresh entry, linked under its hash, after `table_room` has said 0.
cdef uint32_t table_add(CacheC *c, Shard *s, uint64_t hash) noexcept nogil
cdef void table_remove(CacheC *c, Shard *s, uint32_t i) noexcept nogil
# Forget an entry that is in no queue, with all that it holds; `event` is told.
cdef void entry_forget(CacheC *c, Shard *s, uint32_t i, uint32_t event) noexcept nogil

cdef uint64_t _grow_buckets(CacheC *c, Shard *s) noexcept nogil
cdef uint64_t _grow_entries(CacheC *c, Shard *s) noexcept nogil
