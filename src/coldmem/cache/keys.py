"""Keys of the cache as bytes, so that no Python object is kept for a key.

Guarantees: keys that compare equal have the same bytes. So only exact str, bytes and int are taken
here; what is left (bool, float, subclasses, tuples, NumPy scalars) is for the side table of `Core`,
which turns what equals one of the three into it.
Locks: the GIL.
"""

import cython
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_GET_SIZE
from cython.cimports.cpython.object import PyObject_Hash
from cython.cimports.cpython.unicode import PyUnicode_DecodeUTF8
from cython.cimports.libc.stdint import int64_t, uint8_t, uint64_t
from cython.cimports.libc.string import memcpy

GOLDEN = cython.declare(uint64_t, 0x9E3779B97F4A7C15)
MIXER = cython.declare(uint64_t, 0xD6E8FEB86659FD93)
KEY_BYTES_MAX = cython.declare(cython.Py_ssize_t, 1 << 24)


def _mix(hash, kind):
    """All bits of a hash from those that Python gives, which are the number itself for an int."""
    h: uint64_t = (hash ^ (cython.cast(uint64_t, kind) << 56)) * GOLDEN
    h ^= h >> 32
    h *= MIXER
    return h ^ (h >> 32)


def key_number(k, kind, number):
    memcpy(k.number, cython.address(number), 8)
    k.data = k.number
    k.n = 8
    k.kind = kind
    k.hash = _mix(number, kind)


def key_of(key, k):
    n: cython.Py_ssize_t = 0
    overflow: cython.int = 0
    number: int64_t
    what = type(key)
    if what is str:
        try:
            k.data = cython.cast(cython.pointer(cython.const[uint8_t]),
                                 PyUnicode_AsUTF8AndSize(key, cython.address(n)))
        except UnicodeEncodeError:  # lone surrogates
            return False
        k.kind = KEY_STR
    elif what is bytes:
        k.data = cython.cast(cython.pointer(cython.const[uint8_t]), PyBytes_AS_STRING(key))
        n = PyBytes_GET_SIZE(key)
        k.kind = KEY_BYTES
    elif what is int:
        number = PyLong_AsLongLongAndOverflow(key, cython.address(overflow))
        if overflow:
            return False
        key_number(k, KEY_INT, number)
        return True
    else:
        return False
    if n > KEY_BYTES_MAX:
        return False
    k.n = n
    k.hash = _mix(PyObject_Hash(key), k.kind)
    return True


def key_from(data, n, k):
    number: int64_t
    if n == 0:
        return False
    k.kind = data[0]
    if k.kind == KEY_STR or k.kind == KEY_BYTES:
        k.data = data + 1
        k.n = n - 1
        k.hash = _mix(PyObject_Hash(key_object(data, n)), k.kind)
        return True
    if (k.kind == KEY_INT or k.kind == KEY_OTHER) and n == 9:
        memcpy(cython.address(number), data + 1, 8)
        key_number(k, k.kind, number)
        return True
    return False


def key_object(data, n):
    number: int64_t = 0
    p: cython.p_char = cython.cast(cython.p_char, data + 1)
    if data[0] == KEY_STR:
        return PyUnicode_DecodeUTF8(p, n - 1, cython.NULL)
    if data[0] == KEY_BYTES:
        return p[:n - 1]
    memcpy(cython.address(number), data + 1, 8)
    return number
