# The block device as Python sees it. C callers: take c of a Device, then block.pxd.
from libc.stdint cimport int32_t

from coldmem.nbd.block cimport DeviceC, Worker

cdef class Device:
    cdef DeviceC c
    cdef object __weakref__
    cdef readonly object zswap
    cdef int _begin(self, Worker *w, object offset, object nbytes) except -1
    cdef object _check(self, int32_t error, object what, object offset)
