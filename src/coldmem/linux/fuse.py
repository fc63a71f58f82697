"""The device through which the kernel asks a server of a file system (FUSE).

Owns nothing; descriptors are the caller's. Guarantees: a call that a signal interrupts goes on; a
request that its asker took back before it was read is passed over. No policy, no locks.
"""

import fcntl
import os

import cython
from cython.cimports.coldmem.linux.atomic import iovec
from cython.cimports.libc.errno import EAGAIN, EINTR, ENOENT
from cython.cimports.libc.errno import errno as c_errno
from cython.cimports.libc.stdint import int32_t, int64_t

from coldmem.errors import EnvironmentFailure

DEVICE = "/dev/fuse"
CLONE = 0x8004E500  # FUSE_DEV_IOC_CLONE


def fuse_receive(fd, to, n):
    part: iovec
    got: int64_t
    part.iov_base = to
    part.iov_len = n
    while True:
        got = readv(fd, cython.address(part), 1)
        if got >= 0:
            return got
        if c_errno not in (EINTR, EAGAIN, ENOENT):
            return -c_errno


def fuse_answer(fd, parts, count):
    while writev(fd, parts, cython.cast(int32_t, count)) < 0:
        if c_errno != EINTR:
            return -c_errno
    return 0


def open_device() -> int:
    """A descriptor of `DEVICE`, which the caller closes.

    Raises
    ------
    EnvironmentFailure
        There is none, or it may not be opened.
    """
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise EnvironmentFailure(
            f"cannot open {DEVICE}: {os.strerror(error.errno or 0)}. A file of its own needs FUSE: "
            "modprobe fuse, or, in a container, let it have the device"
        ) from error


def clone(fd: int) -> int:
    """Another descriptor of the same mount, with a queue of its own; the caller closes it."""
    made = open_device()
    try:
        fcntl.ioctl(made, CLONE, fd.to_bytes(4, "little"))
    except BaseException:
        os.close(made)
        raise
    return made
