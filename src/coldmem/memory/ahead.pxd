# The readahead thread: loads what a stream will touch next, beside the thread that touches it.
from coldmem.memory.state cimport MemoryC

# The loop of the thread; returns when m.stop is set.
cdef void ahead_loop(MemoryC *m) noexcept nogil
cdef void ahead_stop(MemoryC *m) noexcept nogil
