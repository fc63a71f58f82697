# What Python callers pass: buffers and slots.
from libc.stdint cimport uint64_t

from coldmem.zswap.batch cimport Slots

cdef uint64_t get_slot(object slot) except? 0
cdef int get_buffer(object data, Py_buffer *view, bint writable) except -1
# n: how many slots the buffer of units says, or 0 when the slots themselves say it.
cdef int get_slots(object slots, uint64_t n, Slots *out, Py_buffer *view) except -1
