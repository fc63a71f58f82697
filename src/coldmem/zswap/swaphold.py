"""Frees that wait for a forked child to end.

A child reads the parent's swap file by the offsets it knew when it was made. While children live, what
is freed stays occupied, and is freed when the last of them has gone. Where there is no memory to
remember a free, it happens at once, and a child that reads there finds a wrong checksum. Who holds,
and when the last has gone: see children.py.

Locks: `SwapFileC.lock`.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a32_store_rlx, a64_store_rlx
from cython.cimports.coldmem.linux.lock import mutex_lock, mutex_unlock
from cython.cimports.coldmem.zswap.swapcore import LateFree
from cython.cimports.coldmem.zswap.swapmap import map_free
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, realloc

ROOM_MIN = cython.declare(uint64_t, 1024)


def swap_hold(f):
    a32_store_rlx(cython.address(f.holds), f.holds + 1)


def swap_defer(f, offset, n):
    room: uint64_t
    grown: cython.p_void
    if f.later_n == f.later_room:
        room = max(ROOM_MIN, 2 * f.later_room)
        grown = realloc(f.later, room * cython.sizeof(LateFree))
        if grown == cython.NULL:
            return False
        f.later = cython.cast(LateFreeP, grown)
        f.later_room = room
    f.later[f.later_n].offset = offset
    f.later[f.later_n].n = n
    f.later_n += 1
    return True


def swap_let_go(f):
    i: uint64_t
    k: uint32_t
    mutex_lock(cython.address(f.lock))
    a32_store_rlx(cython.address(f.holds), f.holds - 1)
    if f.holds == 0:
        if not f.closed:
            for i in range(f.later_n):
                k = (f.later[i].n + (1 << f.map.granule_shift) - 1) >> f.map.granule_shift
                if map_free(cython.address(f.map), f.later[i].offset >> f.map.granule_shift, k):
                    f.bad_frees += 1
            a64_store_rlx(
                cython.address(f.used_bytes), f.map.used << f.map.granule_shift
            )
        free(f.later)
        f.later = cython.NULL
        f.later_n = 0
        f.later_room = 0
    mutex_unlock(cython.address(f.lock))
