"""Room and transfers of the swap file, for any thread, without Python.

The contract, the locks and the table of what goes wrong are at the top of swapfile.py.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load,
    a32_store,
    a64_fetch_add,
    a64_fetch_add_rlx,
    a64_load_acq,
    a64_store_rlx,
    futex_wait,
    futex_wake,
    sched_yield,
)
from cython.cimports.coldmem.linux.file import file_punch
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zswap.children import children_forget, children_look
from cython.cimports.coldmem.zswap.swaphold import swap_defer
from cython.cimports.coldmem.zswap.swapio import (
    FaultTableP,
    faulty_punch,
    faulty_read,
    faulty_write,
    io_read,
    io_write,
)
from cython.cimports.coldmem.zswap.swapmap import (
    REGION_SHIFT,
    map_alloc,
    map_destroy,
    map_free,
    map_give_back,
    map_take_pending,
)
from cython.cimports.libc.errno import EBADF, EINVAL, EROFS
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free
from cython.cimports.posix.unistd import close

ONE = cython.declare(uint64_t, 1)
LOOK_EVERY = cython.declare(uint64_t, 256)  # frees held for children


# -- space -----------------------------------------------------------------------------------------
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _granules(f: SwapFileP, n: uint32_t) -> uint32_t:
    return (n + (1 << f.map.granule_shift) - 1) >> f.map.granule_shift


@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _publish_used(f: SwapFileP) -> cython.void:
    a64_store_rlx(cython.address(f.used_bytes), f.map.used << f.map.granule_shift)


def swap_charge(f, n):
    return _granules(f, n) << f.map.granule_shift


def swap_alloc(f, n):
    granule: int64_t
    looked: cython.bint = False
    if n == 0 or n > f.unit_bytes:
        return -EINVAL
    if f.inherited:
        return -EROFS
    mutex_lock(cython.address(f.lock))
    while True:
        if f.closed:
            granule = -EBADF
            break
        granule = map_alloc(cython.address(f.map), _granules(f, n))
        if granule >= 0:
            _publish_used(f)
            break
        if f.holds and not looked:
            looked = True
            mutex_unlock(cython.address(f.lock))
            children_look()
            mutex_lock(cython.address(f.lock))
            continue
        if not f.punching:
            break
        # There may be room in the regions that are being punched: wait for them, try again.
        mutex_unlock(cython.address(f.lock))
        futex_wait(cython.address(f.punching), 1, -1)
        mutex_lock(cython.address(f.lock))
    mutex_unlock(cython.address(f.lock))
    return granule if granule < 0 else granule << f.map.granule_shift


def swap_free(f, offset, n):
    punch: cython.bint
    look: cython.bint
    if f.inherited:
        return
    mutex_lock(cython.address(f.lock))
    if f.closed:
        mutex_unlock(cython.address(f.lock))
        return
    if f.holds and swap_defer(f, offset, n):
        look = f.later_n % LOOK_EVERY == 0
        mutex_unlock(cython.address(f.lock))
        if look:
            children_look()
        return
    if offset & ((ONE << f.map.granule_shift) - 1) or map_free(
        cython.address(f.map), offset >> f.map.granule_shift, _granules(f, n)
    ):
        f.bad_frees += 1
    _publish_used(f)
    punch = f.punch_batch and f.map.pending_n >= f.punch_batch and not f.punching
    mutex_unlock(cython.address(f.lock))
    if punch:
        swap_punch(f)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _punch_range(f: SwapFileP, offset: int64_t, nbytes: uint64_t) -> int32_t:
    table: FaultTableP = cython.cast(FaultTableP, a64_load_acq(cython.address(f.faults)))
    if table == cython.NULL:
        return file_punch(f.fd, offset, nbytes)
    return faulty_punch(table, f.fd, offset, nbytes)


def swap_punch(f):
    """Regions given back to the file system: up to PUNCH_BATCH. One thread at a time."""
    regions = cython.declare(uint64_t[PUNCH_BATCH])
    good = cython.declare(cython.bint[PUNCH_BATCH])
    count: uint32_t
    first: uint32_t = 0
    done: uint32_t = 0
    i: uint32_t
    error: int32_t
    mutex_lock(cython.address(f.lock))
    if f.closed or f.inherited or f.punching or not f.punch_batch:
        mutex_unlock(cython.address(f.lock))
        return 0
    count = map_take_pending(cython.address(f.map), regions, PUNCH_BATCH)
    if count:
        a32_store(cython.address(f.punching), 1)
    mutex_unlock(cython.address(f.lock))
    if count == 0:
        return 0
    # From here to the next lock the regions are ours alone; close waits for `punching`.
    for i in range(1, count + 1):
        if i == count or regions[i] != regions[i - 1] + 1:
            error = _punch_range(f, regions[first] << REGION_SHIFT,
                                 cython.cast(uint64_t, i - first) << REGION_SHIFT)
            while first < i:
                good[first] = error == 0
                first += 1
    mutex_lock(cython.address(f.lock))
    for i in range(count):
        map_give_back(cython.address(f.map), regions[i], good[i])
        if good[i]:
            done += 1
            f.punched_bytes += ONE << REGION_SHIFT
        else:
            f.punch_errors += 1
            f.punch_batch = 0  # this file system cannot: do not ask again
    a32_store(cython.address(f.punching), 0)
    mutex_unlock(cython.address(f.lock))
    futex_wake(cython.address(f.punching), 0x7FFFFFFF)
    return done


# -- transfers -------------------------------------------------------------------------------------
@cython.cfunc
@cython.inline
@cython.nogil
@cython.exceptval(check=False)
def _may_transfer(f: SwapFileP, n: uint64_t, offset: int64_t) -> int32_t:
    if offset < 0 or n > f.bytes_max or cython.cast(uint64_t, offset) > f.bytes_max - n:
        return -EINVAL
    return -EBADF if a32_load(cython.address(f.closed)) else 0


def swap_write(f, src, n, offset):
    error: int32_t
    table: FaultTableP
    # Before `closed` is looked at, so that close either waits for us or we see it.
    a64_fetch_add(cython.address(f.started), 1)
    error = _may_transfer(f, n, offset)
    if f.inherited:
        error = -EROFS
    if error == 0 and n:
        table = cython.cast(FaultTableP, a64_load_acq(cython.address(f.faults)))
        if table == cython.NULL:
            error = io_write(f.fd, src, n, offset, cython.NULL)
        else:
            error = faulty_write(table, f.fd, src, n, offset)
    if error:
        a64_fetch_add_rlx(cython.address(f.write_errors), 1)
    else:
        a64_fetch_add_rlx(cython.address(f.written_bytes), n)
    a64_fetch_add(cython.address(f.writes), 1)
    return error


def swap_read(f, dst, n, offset):
    error: int32_t
    table: FaultTableP
    a64_fetch_add(cython.address(f.started), 1)
    error = _may_transfer(f, n, offset)
    if error == 0 and n:
        table = cython.cast(FaultTableP, a64_load_acq(cython.address(f.faults)))
        if table == cython.NULL:
            error = io_read(f.fd, dst, n, offset, cython.NULL)
        else:
            error = faulty_read(table, f.fd, dst, n, offset)
    if error:
        a64_fetch_add_rlx(cython.address(f.read_errors), 1)
    else:
        a64_fetch_add_rlx(cython.address(f.read_bytes), n)
    a64_fetch_add(cython.address(f.reads), 1)
    return error


def swap_close(f):
    """Refuse what comes, wait for what runs, drop file and map. Nothing when closed already."""
    ended: uint64_t
    mutex_lock(cython.address(f.lock))
    if f.closed:
        mutex_unlock(cython.address(f.lock))
        return
    a32_store(cython.address(f.closed), 1)
    mutex_unlock(cython.address(f.lock))
    while a32_load(cython.address(f.punching)):
        futex_wait(cython.address(f.punching), 1, -1)
    while True:
        # Ended before started: equal then means that all that began by now has ended.
        ended = a64_fetch_add(cython.address(f.writes), 0)
        ended += a64_fetch_add(cython.address(f.reads), 0)
        if ended == a64_fetch_add(cython.address(f.started), 0):
            break
        sched_yield()
    children_forget(f)
    close(f.fd)
    f.fd = -1
    free(f.later)
    f.later = cython.NULL
    f.later_n = 0
    map_destroy(cython.address(f.map))
