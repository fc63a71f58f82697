"""Address space of this process: reserve, give pages back in batches, release; large pieces of memory.

Guarantees: a reserved range reads as zeros and costs no memory until it is touched; after
`memory_dontneed` it does so again. No policy, no locks.

One vectored `process_madvise` serves a batch where the kernel allows it on the process itself
(Linux 6.13 on). Elsewhere neighbouring ranges are joined and each takes a `madvise`. A child made
by fork, C code's included, inherits a pidfd that names its parent, so it falls back to single calls.
"""

import os

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_rlx,
    a32_store_rlx,
    advise_dontneed_many,
    iovec,
    map_reserve,
)
from cython.cimports.coldmem.linux.process import pthread_atfork
from cython.cimports.libc.errno import errno as c_errno
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import qsort
from cython.cimports.posix.mman import (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_PRIVATE,
    MCL_CURRENT,
    MCL_FUTURE,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    madvise,
    mlockall,
    mmap,
    mprotect,
    munlock,
    munlockall,
    munmap,
)

from coldmem.errors import EnvironmentFailure

MADV_DONTFORK = cython.declare(cython.int, 10)
MADV_DOFORK = cython.declare(cython.int, 11)
MADV_HUGEPAGE = cython.declare(cython.int, 14)
MADV_NOHUGEPAGE = cython.declare(cython.int, 15)
MADV_POPULATE_WRITE = cython.declare(cython.int, 23)
MADV_DONTNEED_LOCKED = cython.declare(cython.int, 24)
HUGE_BYTES = cython.declare(uint64_t, 2 << 20)
PAGE_BYTES = cython.declare(uint64_t, 4096)
GRAIN_BYTES = cython.declare(uint64_t, 64 << 10)  # a multiple of every size of a page
PR_SET_IO_FLUSHER = cython.declare(cython.int, 57)
_vectored = cython.declare(int32_t, 1)
_locked = cython.declare(int32_t, 0)


def memory_reserve(nbytes):
    """NULL when the address space is refused (ulimit -v, or strict overcommit)."""
    p: cython.p_void = map_reserve(nbytes)
    if p != cython.NULL:
        # A huge page would be resident for one small object in it.
        madvise(p, nbytes, MADV_NOHUGEPAGE)
    return p


def memory_release(start, nbytes):
    if start != cython.NULL:
        munmap(start, nbytes)


def memory_take(nbytes):
    whole: uint64_t = (nbytes + GRAIN_BYTES - 1) // GRAIN_BYTES * GRAIN_BYTES
    skip: uint64_t
    rest: uint64_t = nbytes % HUGE_BYTES
    start: cython.p_char
    p: cython.p_void = mmap(cython.NULL, whole + HUGE_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if p == MAP_FAILED:
        return cython.NULL
    start = cython.cast(cython.p_char, p)
    skip = (HUGE_BYTES - cython.cast(uint64_t, p) % HUGE_BYTES) % HUGE_BYTES
    if skip:
        munmap(start, skip)
    start += skip
    munmap(start + whole, HUGE_BYTES - skip)
    madvise(start, whole, MADV_HUGEPAGE)
    if rest:  # the end is less than a huge page
        memory_populate(start + (nbytes - rest), rest)
    return start


def memory_return(start, nbytes):
    munmap(start, (nbytes + GRAIN_BYTES - 1) // GRAIN_BYTES * GRAIN_BYTES)


def memory_populate(start, nbytes):
    before: uint64_t = cython.cast(uint64_t, start) % PAGE_BYTES
    madvise(cython.cast(cython.p_char, start) - before, nbytes + before, MADV_POPULATE_WRITE)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _by_address(a: cython.pointer(cython.const[cython.void]),
                b: cython.pointer(cython.const[cython.void])) -> cython.int:
    x: uint64_t = cython.cast(uint64_t, cython.cast(cython.pointer(iovec), a).iov_base)
    y: uint64_t = cython.cast(uint64_t, cython.cast(cython.pointer(iovec), b).iov_base)
    return -1 if x < y else x > y


def memory_dontneed(ranges, count):
    i: uint32_t
    joined: uint32_t = 0
    done: int64_t
    total: int64_t = 0
    if count == 0:
        return 0
    qsort(ranges, count, cython.sizeof(iovec), _by_address)
    for i in range(1, count):
        if (cython.cast(uint64_t, ranges[joined].iov_base) + ranges[joined].iov_len
                == cython.cast(uint64_t, ranges[i].iov_base)):
            ranges[joined].iov_len += ranges[i].iov_len
        else:
            joined += 1
            ranges[joined] = ranges[i]
    joined += 1
    # The vectored call has no form for locked memory that older kernels know.
    if joined > 1 and a32_load_rlx(cython.address(_vectored)) and not (
        a32_load_rlx(cython.address(_locked))
    ):
        for i in range(joined):
            total += ranges[i].iov_len
        done = advise_dontneed_many(ranges, joined)
        if done == total:
            return 1
        if done < 0:
            a32_store_rlx(cython.address(_vectored), 0)
    for i in range(joined):
        _drop(ranges[i].iov_base, ranges[i].iov_len)
    return joined


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _drop(start: cython.p_void, nbytes: uint64_t) -> cython.void:
    """Also of memory that is locked, which MADV_DONTNEED refuses."""
    if not a32_load_rlx(cython.address(_locked)):
        madvise(start, nbytes, MADV_DONTNEED)
    elif madvise(start, nbytes, MADV_DONTNEED_LOCKED) != 0:  # before Linux 5.18
        munlock(start, nbytes)
        madvise(start, nbytes, MADV_DONTNEED)
        mlock2(start, nbytes, MLOCK_ONFAULT)


def memory_forget(start, nbytes):
    _drop(start, nbytes)


def memory_forbid(start, nbytes):
    mprotect(start, nbytes, PROT_NONE)


def memory_inherit(start, nbytes, by_children):
    madvise(start, nbytes, MADV_DOFORK if by_children else MADV_DONTFORK)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _in_child() -> cython.void:
    # The pidfd that was inherited names the parent: never advise away the parent's pages.
    a32_store_rlx(cython.address(_vectored), 0)


pthread_atfork(cython.NULL, cython.NULL, _in_child)


def lock_all() -> None:
    """Keep every page of this process in RAM, those to come too, from when they are touched.

    Not from when they are mapped: tables and pools reserve far more address space than they use.

    Raises
    ------
    EnvironmentFailure
        The right is missing.
    """
    if mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0:
        error: cython.int = c_errno
        raise EnvironmentFailure(
            f"the memory of this process cannot be locked: {os.strerror(error)}. It needs the "
            "capability CAP_IPC_LOCK (root has it), or a limit RLIMIT_MEMLOCK (ulimit -l) that holds "
            "all address space that is reserved: try ulimit -l unlimited"
        )
    a32_store_rlx(cython.address(_locked), 1)
    # Where allowed: when the kernel needs memory for this thread and those that it starts, it must not
    # wait for a disk, since that disk may be the one that they serve.
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0)


def unlock_all() -> None:
    """Undo `lock_all`, for threads started from now on."""
    prctl(PR_SET_IO_FLUSHER, 0, 0, 0, 0)
    munlockall()
    a32_store_rlx(cython.address(_locked), 0)


def vectored() -> bool:
    """Whether batches still go back in one system call."""
    return a32_load_rlx(cython.address(_vectored)) != 0
