"""What the kernel says of one thread of this process. No policy, no locks."""

import cython
from cython.cimports.libc.stdio import snprintf
from cython.cimports.libc.stdlib import atoi
from cython.cimports.libc.string import strrchr
from cython.cimports.posix.fcntl import O_CLOEXEC, O_RDONLY, open
from cython.cimports.posix.unistd import close, read

FIELDS = cython.declare(cython.int, 37)  # of "processor", after the name in brackets: see proc(5)


def task_cpu(thread):
    path: cython.char[48]
    line: cython.char[1024]
    at: cython.p_char
    fd: cython.int
    n: cython.Py_ssize_t
    field: cython.int = 0
    snprintf(path, 48, b"/proc/self/task/%d/stat", thread)
    fd = open(path, O_RDONLY | O_CLOEXEC)
    if fd < 0:
        return -1
    n = read(fd, line, 1023)
    close(fd)
    if n <= 0:
        return -1
    line[n] = 0
    at = strrchr(line, ord(b")"))
    while at != cython.NULL and at[0] != 0 and field < FIELDS:
        at += 1
        if at[0] == ord(b" "):
            field += 1
    return atoi(at + 1) if at != cython.NULL and field == FIELDS else -1


def cpu_of(thread: int) -> int:
    """The same, for Python."""
    return task_cpu(thread)
