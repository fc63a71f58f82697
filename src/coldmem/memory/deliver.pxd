# How a fault reaches us: as a signal in the faulting thread, or as a message to a handler thread.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.memory.state cimport MemoryC

cdef enum:
    MEMORIES_MAX = 64

# Serve SIGBUS for this memory from now on; -1: too many memories. 0 otherwise.
cdef int deliver_add(MemoryC *m) noexcept nogil
cdef void deliver_remove(MemoryC *m) noexcept nogil
# The table, for who must see all memories: hold it, look, let go.
cdef void deliver_lock() noexcept nogil
cdef void deliver_unlock() noexcept nogil
cdef MemoryC *deliver_memory(uint32_t i) noexcept nogil
# The memory that an address lies in, or NULL. Safe in a signal handler.
cdef MemoryC *memory_of(uint64_t address) noexcept nogil
# The loop of a handler thread; returns when m.stop is set and one more fault comes.
cdef void handler_loop(MemoryC *m, uint32_t cpu) noexcept nogil
cdef void explain(int32_t result) noexcept nogil
# Take SIGBUS; with the table locked. 0: it was ours.
cdef int install() noexcept nogil
