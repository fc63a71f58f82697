# Which handler threads wait for faults.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.memory.state cimport MemoryC

# All handlers wait: `handlers` has a bit for the CPU of each.
cdef void follow_begin(MemoryC *m, uint64_t handlers) noexcept nogil
# Returns when the handler of this CPU shall wait for faults, or m.stop is set.
cdef void follow_wait(MemoryC *m, uint32_t cpu) noexcept nogil
# A fault of this thread was served.
cdef void follow_fault(MemoryC *m, uint32_t thread, uint32_t *served) noexcept nogil
# Wake all: m.stop is set.
cdef void follow_end(MemoryC *m) noexcept nogil
