"""Files without a name, holes in them, locks on them, and what kind of file system a directory is on.

Guarantees: `open_unnamed` gives a file that no other process can open by name, mode 0600, closed on
exec. Errors are the system's own (OSError, or -errno below Python). No policy, no locks.
"""

import errno
import fcntl
import os

import cython
from cython.cimports.libc.errno import EINTR
from cython.cimports.libc.errno import errno as c_errno
from cython.cimports.libc.stdint import int64_t, uint64_t

TMPFS_MAGIC = 0x01021994
RAMFS_MAGIC = 0x858458F6
# What open says where O_TMPFILE is unknown to the file system, or to an old kernel.
NO_TMPFILE = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS)


def file_punch(fd, offset, nbytes):
    while fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, nbytes) != 0:
        if c_errno != EINTR:
            return -c_errno
    return 0


def file_read(fd, to, n, offset):
    got: cython.Py_ssize_t
    done: uint64_t = 0
    while done < n:  # a call moves 2 GiB at most
        got = pread(fd, to + done, n - done, offset + cython.cast(int64_t, done))
        if got > 0:
            done += cython.cast(uint64_t, got)
        elif got == 0:
            break
        elif c_errno != EINTR:
            return -c_errno
    return cython.cast(int64_t, done)


def in_memory(directory: str) -> bool:
    """Whether files in `directory` live in RAM (tmpfs, ramfs). OSError when it cannot be asked."""
    out = cython.declare(statfs_t)
    if statfs(os.fsencode(directory), cython.address(out)) != 0:
        error: cython.int = c_errno
        raise OSError(error, os.strerror(error), directory)
    return (out.f_type & 0xFFFFFFFF) in (TMPFS_MAGIC, RAMFS_MAGIC)


def open_unnamed(directory: str) -> int:
    """A descriptor of a new file in `directory` that has no name.

    Where the file system has no O_TMPFILE (overlayfs before 6.1, NFS, FAT), the file is made under
    a random name that must not exist, and that name is removed at once.
    """
    flags = os.O_RDWR | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = os.open(directory, flags | os.O_TMPFILE, 0o600)
    except OSError as error:
        if error.errno not in NO_TMPFILE:
            raise
        path = os.path.join(directory, f".coldmem-{os.urandom(8).hex()}")
        fd = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        os.unlink(path)
    os.fchmod(fd, 0o600)  # a strict umask may have taken the owner's own bits away
    return fd


def punch(fd: int, offset: int, nbytes: int) -> bool:
    """Give the disk space of a range back; it reads as zeros after. Whether the system did so."""
    return file_punch(fd, offset, nbytes) == 0


def lock_file(fd: int) -> bool:
    """Take the file for its descriptor alone, until `unlock_file` or the last close of it.

    False when another descriptor has it. A child of fork shares the descriptor, and so the lock.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock_file(fd: int) -> None:
    """Undo `lock_file`, in every process that shares the descriptor."""
    fcntl.flock(fd, fcntl.LOCK_UN)
