# Memory for a value that comes back.
from libc.stdint cimport uint8_t, uint64_t

cdef class Space:
    cdef uint8_t *start
    cdef uint64_t nbytes

# An object for a value of this kind and length, and where its bytes go: bytes for kind 0, else a bytearray
# or, when it is large, a Space.
cdef object value_room(uint64_t kind, uint64_t nbytes, uint8_t **out)
# Where the bytes of an object that was just made go.
cdef uint8_t *room_of(object thing) except NULL
