"""A stress of a Zswap that verifies contents: any thread, any slot, at full speed.

Owns: a small record per slot. A unit says which slot and version it is, and all its bytes follow from
that, so whoever loads one knows whether it is whole. Kinds are mixed: same-filled, incompressible,
compressible to various shares.

Half of the slots are *ruled*: one thread at a time changes a slot and knows exactly what must be in
it; others read it at the same time, and must find a version that is not older than the last one
whose store was over when they began. The other half is a *free for all*: any operation, by any thread,
at any time; there only wholeness is checked.
Locks: `Slot.lock`, tried only.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_fetch_add,
    a32_load_acq,
    a32_store_rel,
)
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.load import zswap_invalidate, zswap_load
from cython.cimports.coldmem.zswap.state import ZW_NOT_FOUND, ZW_OK, WorkContextP
from cython.cimports.coldmem.zswap.store import zswap_store
from cython.cimports.coldmem.zswap.zswap import Zswap
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcmp, memset

from coldmem.errors import ClosedError

MIX = cython.declare(uint64_t, 0x9E3779B97F4A7C15)


def fill_unit(out, n, slot, version):
    """Word 0 names slot and version; the rest follows from it."""
    words: U64P = cython.cast(U64P, out)
    name: uint64_t = (cython.cast(uint64_t, slot) << 32) | version
    x: uint64_t = (name + 1) * MIX
    i: uint32_t
    noisy: uint32_t
    x ^= x >> 29
    if x % 8 == 0:
        for i in range(n // 8):
            words[i] = name
        return
    # 0 to 9 eighths of noise, so that some units are incompressible; zeros after it.
    noisy = cython.cast(uint32_t, (x >> 8) % 10) * (n // 64)
    if noisy > n // 8:
        noisy = n // 8
    memset(out, 0, n)
    words[0] = name
    for i in range(1, noisy):
        x = (x ^ (x >> 29)) * MIX + 1
        words[i] = x
    words[n // 8 - 1] = ~name


def unit_version(unit):
    return cython.cast(int32_t, cython.cast(U64P, unit)[0] & 0x7FFFFFFF)


def unit_valid(unit, work, n, slot):
    name: uint64_t = cython.cast(U64P, unit)[0]
    if name >> 32 != slot:
        return False
    fill_unit(work, n, slot, cython.cast(uint32_t, name))
    return memcmp(unit, work, n) == 0


class ZswapStress:
    """Slots that all threads use, in one Zswap.

    Parameters
    ----------
    zswap : Zswap
    slots : int
        How many slots, from 0 on.
    groups : sequence of Group
        Stores go to these in turn, and to none.
    """

    def __init__(self, zswap: Zswap, slots=4096, groups=()):
        i: uint32_t
        if slots < 2 or len(groups) > 63:
            raise ValueError("give at least two slots, and at most 63 groups")
        self.slots = cython.cast(SlotP, calloc(slots, cython.sizeof(Slot)))
        if self.slots == cython.NULL:
            raise MemoryError("no memory for the slots")
        self.keep = zswap
        self.z = zswap.c
        self.slots_n = slots
        self.groups[0] = 0
        for i in range(cython.cast(uint32_t, len(groups))):
            self.groups[i + 1] = groups[i].id
        self.groups_n = len(groups) + 1

    def __dealloc__(self):
        free(self.slots)

    def stop_all(self):
        """Let every worker come to its end."""
        a32_store_rel(cython.address(self.stop), 1)

    def worker(self, seed):
        """Work until `stop_all`, or until the Zswap is closed.

        Returns
        -------
        tuple of int
            Operations done, wrong answers (none, it is to be hoped), and stores refused.
        """
        r: Result
        s: uint64_t = seed + 1
        unit: U8P = cython.cast(U8P, malloc(2 * self.z.unit_bytes))
        if unit == cython.NULL:
            raise MemoryError("no memory for a unit")
        memset(cython.address(r), 0, cython.sizeof(Result))
        with cython.nogil:
            self.run(s * MIX, unit, unit + self.z.unit_bytes, cython.address(r))
        free(unit)
        return r.done, r.bad, r.refused

    def run(self, seed, unit, work, r):
        x: uint64_t = seed
        slot: uint32_t
        what: uint32_t
        group: uint32_t
        w: WorkContextP
        while not a32_load_acq(cython.address(self.stop)):
            x ^= x << 13
            x ^= x >> 7
            x ^= x << 17
            slot = cython.cast(uint32_t, x >> 33) % self.slots_n
            what = cython.cast(uint32_t, x >> 8) % 16
            group = self.groups[cython.cast(uint32_t, x >> 20) % self.groups_n]
            w = context_get(self.z)
            if w == cython.NULL:
                return  # closed
            if slot % 2:
                self.ruled(slot, what, group, unit, work, w, r)
            else:
                self.free_for_all(slot, what, group, unit, work, w, r)
            context_put(self.z, w)
            r.done += 1

    def ruled(self, slot, what, group, unit, work, w, r):
        s: SlotP = self.slots + slot
        n: uint32_t = self.z.unit_bytes
        got: int32_t
        version: int32_t
        floor: int32_t = a32_load_acq(cython.address(s.floor))
        if what >= 10 or not a32_cas(cython.address(s.lock), 0, 1):
            # Beside whoever may be changing it.
            got = zswap_load(self.z, slot, unit, False, w)
            if got == ZW_NOT_FOUND:
                return
            version = unit_version(unit)
            if got != cython.cast(int32_t, n) or not unit_valid(unit, work, n, slot) or (
                version < floor or version > a32_load_acq(cython.address(s.next))
            ):
                r.bad += 1
            return
        if what < 4:
            version = a32_fetch_add(cython.address(s.next), 1) + 1
            fill_unit(unit, n, slot, cython.cast(uint32_t, version))
            if zswap_store(self.z, slot, unit, group, w) == ZW_OK:
                s.present = version
                a32_store_rel(cython.address(s.floor), version)
            else:
                s.present = 0
                r.refused += 1
        elif what < 8:
            got = zswap_load(self.z, slot, unit, what == 4, w)
            if s.present == 0:
                r.bad += got != ZW_NOT_FOUND
            elif got != cython.cast(int32_t, n) or not unit_valid(unit, work, n, slot) or (
                unit_version(unit) != s.present
            ):
                r.bad += 1
            if what == 4:
                s.present = 0
        else:
            r.bad += zswap_invalidate(self.z, slot, w) != (s.present != 0)
            s.present = 0
        a32_store_rel(cython.address(s.lock), 0)

    def free_for_all(self, slot, what, group, unit, work, w, r):
        n: uint32_t = self.z.unit_bytes
        got: int32_t
        if what < 5:
            fill_unit(unit, n, slot, cython.cast(
                uint32_t, a32_fetch_add(cython.address(self.slots[slot].next), 1)
            ))
            r.refused += zswap_store(self.z, slot, unit, group, w) != ZW_OK
        elif what < 7:
            zswap_invalidate(self.z, slot, w)
        else:
            got = zswap_load(self.z, slot, unit, what < 10, w)
            if got != ZW_NOT_FOUND and (
                got != cython.cast(int32_t, n) or not unit_valid(unit, work, n, slot)
            ):
                r.bad += 1

    def missing(self):
        """After the workers: how many ruled slots do not hold what they must."""
        w: WorkContextP
        slot: uint32_t
        got: int32_t
        bad: uint64_t = 0
        n: uint32_t = self.z.unit_bytes
        unit: U8P = cython.cast(U8P, malloc(2 * n))
        if unit == cython.NULL:
            raise MemoryError("no memory for a unit")
        with cython.nogil:
            w = context_get(self.z)
            if w != cython.NULL:
                for slot in range(1, self.slots_n, 2):
                    got = zswap_load(self.z, slot, unit, False, w)
                    if self.slots[slot].present == 0:
                        bad += got != ZW_NOT_FOUND
                    elif got != cython.cast(int32_t, n) or (
                        not unit_valid(unit, unit + n, n, slot)
                        or unit_version(unit) != self.slots[slot].present
                    ):
                        bad += 1
                context_put(self.z, w)
        free(unit)
        if w == cython.NULL:
            raise ClosedError("this Zswap is closed")
        return bad
