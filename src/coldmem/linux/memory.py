"""Address space of this process: reserve, give pages back in batches, release.

Guarantees: a reserved range reads as zeros and costs no memory until it is touched; after
`memory_dontneed` it does so again. No policy, no locks.

One vectored `process_madvise` serves a batch where the kernel allows it on the process itself
(Linux 6.13 on). Elsewhere neighbouring ranges are joined and each takes a `madvise`. A child made
by fork, C code's included, inherits a pidfd that names its parent, so it falls back to single calls.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_rlx,
    a32_store_rlx,
    advise_dontneed_many,
    iovec,
    map_reserve,
)
from cython.cimports.coldmem.linux.process import pthread_atfork
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import qsort
from cython.cimports.posix.mman import MADV_DONTNEED, PROT_NONE, madvise, mprotect, munmap

MADV_DONTFORK = cython.declare(cython.int, 10)
MADV_DOFORK = cython.declare(cython.int, 11)
MADV_NOHUGEPAGE = cython.declare(cython.int, 15)
_vectored = cython.declare(int32_t, 1)


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
    if joined > 1 and a32_load_rlx(cython.address(_vectored)):
        for i in range(joined):
            total += ranges[i].iov_len
        done = advise_dontneed_many(ranges, joined)
        if done == total:
            return 1
        if done < 0:
            a32_store_rlx(cython.address(_vectored), 0)
    for i in range(joined):
        madvise(ranges[i].iov_base, ranges[i].iov_len, MADV_DONTNEED)
    return joined


def memory_forget(start, nbytes):
    madvise(start, nbytes, MADV_DONTNEED)


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


def vectored() -> bool:
    """Whether batches still go back in one system call."""
    return a32_load_rlx(cython.address(_vectored)) != 0
