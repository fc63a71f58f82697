"""Reads, writes and discards of a block device, one system call each.

Guarantees: interrupted calls are made again; a short one is an error, for no disk gives part of a
block. No policy, no locks.
"""

import cython
from cython.cimports.libc.errno import EINTR, EIO
from cython.cimports.libc.errno import errno as c_errno
from cython.cimports.libc.stdint import uint64_t


def direct_read(fd, to, n, offset):
    got: cython.Py_ssize_t
    while True:
        got = pread(fd, to, n, offset)
        if got >= 0:
            return 0 if cython.cast(uint64_t, got) == n else -EIO
        if c_errno != EINTR:
            return -c_errno


def direct_write(fd, data, n, offset):
    got: cython.Py_ssize_t
    while True:
        got = pwrite(fd, data, n, offset)
        if got >= 0:
            return 0 if cython.cast(uint64_t, got) == n else -EIO
        if c_errno != EINTR:
            return -c_errno


def direct_discard(fd, n, offset):
    span: uint64_t[2]
    span[0] = offset
    span[1] = n
    while ioctl(fd, BLKDISCARD, span) != 0:
        if c_errno != EINTR:
            return -c_errno
    return 0
