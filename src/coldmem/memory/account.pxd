# What a Memory has done and holds, as a dict.
from coldmem.memory.state cimport MemoryC

# With the GIL. `inner`: Zswap.stats().
cdef dict memory_account(MemoryC *m, dict inner)
