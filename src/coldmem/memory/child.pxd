# fork: the child's half of a Memory.
from coldmem.memory.state cimport MemoryC

# In a child that may have threads: change over to handler threads, which the caller starts.
# 0 or -errno; the range is then closed to all access.
cdef int child_use_handlers(MemoryC *m) noexcept nogil
cdef int _adopt(MemoryC *m, bint sigbus) noexcept nogil
