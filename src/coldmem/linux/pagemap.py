"""/proc/self/pagemap: which pages of a range are there, and which are write-protected.

Needs no rights: only the addresses of pages in RAM are hidden from ordinary users. No policy, no locks.
"""

import cython
from cython.cimports.libc.errno import EINTR, EIO, errno
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.posix.fcntl import O_CLOEXEC, O_RDONLY, open
from cython.cimports.posix.unistd import close, pread

PAGE = cython.declare(uint64_t, 4096)


def pagemap_open():
    fd: cython.int = open(b"/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
    return fd if fd >= 0 else -errno


def pagemap_read(fd, start, pages, out):
    want: uint64_t = pages * 8
    done: uint64_t = 0
    n: cython.Py_ssize_t
    at: uint64_t = cython.cast(uint64_t, start) // PAGE * 8
    while done < want:
        n = pread(fd, cython.cast(cython.p_char, out) + done, want - done, at + done)
        if n > 0:
            done += n
        elif n == 0:
            return -EIO
        elif errno != EINTR:
            return -errno
    return 0


def pagemap_close(fd):
    if fd >= 0:
        close(fd)
