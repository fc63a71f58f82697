"""userfaultfd: open one with the best rights there are, register, and serve faults.

Guarantees: each call is done whole or says why not; interrupted ones (EAGAIN, EINTR) are taken up
where they stopped. No policy, no locks.
"""

import os

import cython
from cython.cimports.coldmem.linux.atomic import sched_yield, userfaultfd_syscall
from cython.cimports.libc.errno import EAGAIN, EEXIST, EINTR, errno
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.posix.fcntl import O_CLOEXEC, O_RDONLY, open
from cython.cimports.posix.ioctl import ioctl
from cython.cimports.posix.unistd import close, read

API = cython.declare(uint64_t, 0xAA)
IOC_NEW = cython.declare(cython.ulong, 0xAA00)
IOC_API = cython.declare(cython.ulong, 0xC018AA3F)
IOC_REGISTER = cython.declare(cython.ulong, 0xC020AA00)
IOC_WAKE = cython.declare(cython.ulong, 0x8010AA02)
IOC_COPY = cython.declare(cython.ulong, 0xC028AA03)
IOC_PROTECT = cython.declare(cython.ulong, 0xC018AA06)
IOC_POISON = cython.declare(cython.ulong, 0xC020AA08)
USER_MODE_ONLY = cython.declare(cython.int, 1)
MODE_MISSING_WP = cython.declare(uint64_t, 3)
COPY_MODE_WP = cython.declare(uint64_t, 2)
EVENT_PAGEFAULT = cython.declare(cython.int, 0x12)
PAGE = cython.declare(uint64_t, 4096)
WAYS = ("syscall", "device", "user_mode_only")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _new(way: int32_t) -> cython.int:
    """A file descriptor or -errno. Ways: the system call, the device, for user code only."""
    fd: cython.int
    device: cython.int
    if way == 0:
        fd = userfaultfd_syscall(O_CLOEXEC)
    elif way == 1:
        device = open(b"/dev/userfaultfd", O_RDONLY | O_CLOEXEC)
        if device < 0:
            return -errno
        fd = ioctl(device, IOC_NEW, O_CLOEXEC)
        if fd < 0:
            fd = -errno
        close(device)
        return fd
    else:
        fd = userfaultfd_syscall(O_CLOEXEC | USER_MODE_ONLY)
    return fd if fd >= 0 else -errno


def uffd_open(sigbus, rights):
    way: int32_t
    fd: cython.int = -1
    a: UffdApi
    error: cython.int = 0
    for way in range(3):
        fd = _new(way)
        if fd < 0:
            error = fd
            continue
        a.api = API
        a.features = FEATURE_WP | (FEATURE_SIGBUS if sigbus else FEATURE_THREAD_ID)
        a.ioctls = 0
        if ioctl(fd, IOC_API, cython.address(a)) == 0:
            rights[0] = RIGHTS_USER if way == 2 else RIGHTS_FULL
            return fd
        error = -errno
        close(fd)
    rights[0] = RIGHTS_NONE
    return error


def uffd_register(fd, start, nbytes):
    r: UffdRegister
    r.start = cython.cast(uint64_t, start)
    r.len = nbytes
    r.mode = MODE_MISSING_WP
    r.ioctls = 0
    return 0 if ioctl(fd, IOC_REGISTER, cython.address(r)) == 0 else -errno


def uffd_copy(fd, to, data, nbytes, protect):
    c: UffdCopy
    error: cython.int
    done: uint64_t
    c.dst = cython.cast(uint64_t, to)
    c.src = cython.cast(uint64_t, data)
    c.len = nbytes
    while True:
        c.mode = COPY_MODE_WP if protect else 0
        c.copy = 0
        if ioctl(fd, IOC_COPY, cython.address(c)) == 0:
            return 0
        error = errno
        done = c.copy if c.copy > 0 else 0
        if error == EEXIST and done == 0:
            # Somebody was faster with this page. It stands; whoever waits for it must be told.
            uffd_wake(fd, cython.cast(cython.p_void, c.dst), PAGE)
            done = PAGE
        elif error != EAGAIN and error != EINTR and done == 0:
            return -error
        elif done == 0:
            sched_yield()  # the address space is changing
        c.dst += done
        c.src += done
        c.len -= done
        if c.len == 0:
            return 0


def uffd_protect(fd, start, nbytes, on):
    p: UffdProtect
    p.start = cython.cast(uint64_t, start)
    p.len = nbytes
    p.mode = 1 if on else 0
    while ioctl(fd, IOC_PROTECT, cython.address(p)) != 0:
        if errno != EAGAIN and errno != EINTR:
            return -errno
        sched_yield()
    return 0


def uffd_wake(fd, start, nbytes):
    r: UffdRange
    r.start = cython.cast(uint64_t, start)
    r.len = nbytes
    return 0 if ioctl(fd, IOC_WAKE, cython.address(r)) == 0 else -errno


def uffd_poison(fd, start, nbytes):
    p: UffdPoison
    p.start = cython.cast(uint64_t, start)
    p.len = nbytes
    p.mode = 0
    p.updated = 0
    return 0 if ioctl(fd, IOC_POISON, cython.address(p)) == 0 else -errno


def uffd_read(fd, address, flags, thread):
    m: UffdMessage
    n: cython.Py_ssize_t = read(fd, cython.address(m), cython.sizeof(UffdMessage))
    if n < 0:
        return -errno if errno != EAGAIN and errno != EINTR else 0
    if n != cython.sizeof(UffdMessage) or m.event != EVENT_PAGEFAULT:
        return 0
    address[0] = m.address
    flags[0] = m.flags & 3
    thread[0] = cython.cast(uint32_t, m.thread)
    return 1


def rights_here() -> str:
    """What this process may do: "full", "user" (no faults of system calls) or "none"."""
    rights: int32_t = 0
    fd: cython.int = uffd_open(False, cython.address(rights))
    if fd >= 0:
        close(fd)
    return ("none", "user", "full")[rights]


def ways_here() -> dict[str, str]:
    """How one can be opened, each way tried: "" or why not, by the way's name."""
    found = {}
    way: int32_t
    for way in range(3):
        fd: cython.int = _new(way)
        if fd >= 0:
            close(fd)
        found[WAYS[way]] = "" if fd >= 0 else os.strerror(-fd)
    return found


def features_here() -> int:
    """Feature bits of this kernel's userfaultfd; 0 when none can be opened."""
    a: UffdApi
    way: int32_t
    for way in range(3):
        fd: cython.int = _new(way)
        if fd < 0:
            continue
        a.api = API
        a.features = 0
        a.ioctls = 0
        done: cython.int = ioctl(fd, IOC_API, cython.address(a))
        close(fd)
        if done == 0:
            return a.features
    return 0
