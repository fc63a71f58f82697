# Keys as bytes: a kind, then UTF-8, bytes, or the eight bytes of a number.
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from coldmem.cache.state cimport Key

cdef extern from "Python.h":
    const char *PyUnicode_AsUTF8AndSize(object text, Py_ssize_t *size) except NULL
    long long PyLong_AsLongLongAndOverflow(object number, int *overflow) except? -1

cdef enum KeyKind:
    KEY_STR = 1
    KEY_BYTES = 2
    KEY_INT = 3
    KEY_OTHER = 4               # the number is that of the side table
    KEY_OWN = 5                 # the cache's own records on disk

# Fill k; False: not a str, bytes or int as such. k.data points into the object.
cdef bint key_of(object key, Key *k) except -1
cdef void key_number(Key *k, uint8_t kind, int64_t number) noexcept nogil
# The same from bytes with the kind in front, as they lie on disk.
cdef bint key_from(const uint8_t *data, uint64_t n, Key *k) except -1
# The str, bytes or int; for KEY_OTHER the number.
cdef object key_object(const uint8_t *data, uint32_t n)
cdef uint64_t _mix(uint64_t hash, uint8_t kind) noexcept nogil
