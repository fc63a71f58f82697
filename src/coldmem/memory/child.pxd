# fork: the child's half of a Memory.
from coldmem.memory.state cimport MemoryC

# Before a fork: nobody is inside. Both sides call `child_release` after it.
cdef void child_prepare(MemoryC *m) noexcept nogil
cdef void child_release(MemoryC *m) noexcept nogil
# In the child, before child_release: a userfaultfd of its own. 0 or -errno; the range is then closed
# to all access.
cdef int child_adopt(MemoryC *m) noexcept nogil
