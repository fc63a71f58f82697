"""`Zswap`: the compressed cache as Python sees it. Here: what is done to units.

Guarantees: the GIL is released from first to last; buffers are used in place. What was stored is
lost only by invalidating, overwriting or an exclusive load, and by a `store` that failed.
Locks: a call holds a context; see context.py.
"""

import cython
from cython.cimports.coldmem.zswap.arguments import get_buffer, get_slot, get_slots
from cython.cimports.coldmem.zswap.base import ZswapBase
from cython.cimports.coldmem.zswap.batch import (
    Slots,
    batch_invalidate,
    batch_load,
    batch_store,
    slot_at,
)
from cython.cimports.coldmem.zswap.context import U8P, context_get, context_put
from cython.cimports.coldmem.zswap.counters import total
from cython.cimports.coldmem.zswap.load import zswap_contains, zswap_invalidate, zswap_load
from cython.cimports.coldmem.zswap.lru import F_DISK_UNITS, F_RAM_UNITS, F_SAME_UNITS
from cython.cimports.coldmem.zswap.recompress import Recompressed, recompress_pass
from cython.cimports.coldmem.zswap.state import GROUP_ROOT, ZW_OK, WorkContextP, ZswapP
from cython.cimports.coldmem.zswap.store import zswap_replace, zswap_store
from cython.cimports.cpython.buffer import PyBuffer_Release
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memset

from coldmem.errors import ClosedError, InvalidSizeError, UsageError
from coldmem.zswap.failures import load_error, store_error


class Zswap(ZswapBase):
    """A compressed cache of units of memory, with a swap file behind it.

    Parameters
    ----------
    unit_bytes : {4096, 16384, 65536}
        What one slot holds.
    max_pool : int or str, default "20%"
        Most bytes of the pool; a percentage is of the machine's memory. Never exceeded.
    accept_threshold : float, default 0.9
        A pool that was full is open again at this share of `max_pool`. 1.0: no hysteresis.
    codec : str or Codec, default "lz4"
        See `coldmem.codecs.get_codec`.
    cold_codec : str or Codec, optional
        A slower codec that compresses more, for `recompress`.
    swap : SwapFile, int, str or None
        The swap file, or the size of one to be made. None: units stay in RAM.
    swap_directory : path, optional
        Where to make it.
    on_full : {"writeback", "reject"}
        What a store does that finds the pool full. "writeback": it makes room itself. "reject", as
        the kernel: it is refused, and so are others until the shrinker has brought the pool down to
        the accept threshold.
    shrinker : {"referenced", "protected"}
        The rule of kernel 6.12 or that of 6.11; see the design document.
    shrinker_thread : bool, default True
        Write back in the background. Without it only stores and `shrink` write back.
    incompressible : {"raw", "reject"}
        Units that the codec cannot make smaller: kept as they are, or refused.
    locking : {"handle", "class", "pool"}
    magazines : bool or int
    chain : int
    lock_statistics : bool
        As for `coldmem.zsmalloc.Pool`.
    pools : int, default 1
        Spread objects over this many pools that share the limit (the workaround of 2023).
    shards : int, optional
        Parts of index and LRU, each with its lock; a power of two. Default: 8 per CPU, 16 to 256.
    entries_max : int, default 2**26
        Most units; address space of 64 bytes each is reserved.

    Raises
    ------
    UsageError
        An argument is wrong.
    EnvironmentFailure
        The system refuses the address space, or the swap file.
    """

    def store(self, slot, buffer, group=None):
        """Keep a copy of `buffer` under `slot`, in place of what was there.

        Parameters
        ----------
        slot : int
            Any number from 0 to 2**64 - 1.
        buffer : buffer
            `unit_bytes` contiguous bytes of any type.
        group : Group or str, optional
            Whose limits count.

        Raises
        ------
        MemoryLimitError
            No room, neither in the pool nor in the swap file, or a limit of the group. The slot then
            holds nothing: what was there before is gone, as it is out of date.
        CodecError
            The codec failed; likewise.
        InvalidSizeError
            The buffer is not one unit.
        """
        self._store(slot, buffer, group, True, False)

    def replace(self, slot, buffer, group=None):
        """The same, but when it fails, what was stored under `slot` is still there.

        For a caller to whom the old unit is not out of date until the new one is in, as to a disk.

        Parameters
        ----------
        slot : int
        buffer : buffer
        group : Group or str, optional
            As for `store`.

        Raises
        ------
        MemoryLimitError, CodecError, InvalidSizeError
            As `store`; the slot holds what it held before.
        """
        self._store(slot, buffer, group, True, True)

    def store_many(self, slots, buffer, group=None):
        """Store many units in one call: all, or none.

        Parameters
        ----------
        slots : int, range, list, or array of uint64
            The first of consecutive slots, or each slot. Of a slot named twice the last counts.
        buffer : buffer
            The units, one after the other.
        group : Group or str, optional

        Raises
        ------
        MemoryLimitError, CodecError
            As `store`. No slot of the call then holds anything.
        """
        self._store(slots, buffer, group, False, False)

    def _store(self, slots, buffer, group, single: cython.bint, keep: cython.bint):
        view: cython.Py_buffer
        keys: cython.Py_buffer
        s: Slots
        w: WorkContextP
        z: ZswapP = self.c
        unit: uint64_t = z.unit_bytes
        bad: uint64_t = 0
        error: int32_t
        id: uint32_t = self._group(group)
        get_buffer(buffer, cython.address(view), False)
        memset(cython.address(keys), 0, cython.sizeof(cython.Py_buffer))
        try:
            if single:
                bad = get_slot(slots)
                s.n = 1
            if cython.cast(uint64_t, view.len) % unit or (single and view.len != unit):
                raise self._wrong_size(view.len, single)
            if not single:
                get_slots(slots, view.len // unit, cython.address(s), cython.address(keys))
            with cython.nogil:
                w = context_get(z)
                error = ZW_OK
                if w != cython.NULL:
                    if keep:
                        error = zswap_replace(z, bad, cython.cast(U8P, view.buf), id, w)
                    elif single:
                        error = zswap_store(z, bad, cython.cast(U8P, view.buf), id, w)
                    else:
                        error = batch_store(
                            z, cython.address(s), cython.cast(U8P, view.buf), id,
                            cython.address(bad), w,
                        )
                    context_put(z, w)
        finally:
            PyBuffer_Release(cython.address(view))
            PyBuffer_Release(cython.address(keys))
        if w == cython.NULL:
            raise ClosedError("this Zswap is closed")
        if error != ZW_OK:
            raise store_error(error, bad, s.n)

    def _wrong_size(self, nbytes, single):
        if self.closed:
            return ClosedError("this Zswap is closed")
        unit = self.c.unit_bytes
        what = f"exactly {unit} bytes" if single else f"a whole number of units of {unit} bytes"
        return InvalidSizeError(f"a buffer of {nbytes} bytes: pass {what}")

    def load(self, slot, out, exclusive=False):
        """Copy what is stored under `slot` into `out`.

        Parameters
        ----------
        slot : int
        out : writable buffer
            `unit_bytes` contiguous bytes. After an error its content is undefined.
        exclusive : bool, default False
            Remove the unit as well. Of several exclusive loads at once, one gets it.

        Raises
        ------
        SlotNotFoundError
            Nothing is stored there.
        SwapFileError, CorruptDataError
            The swap file cannot be read, or gave back something else. The unit is kept.
        """
        self._load(slot, out, exclusive, True)

    def load_many(self, slots, buffer, exclusive=False):
        """Load many units in one call.

        Parameters
        ----------
        slots : int, range, list, or array of uint64
            As for `store_many`.
        buffer : writable buffer
            Room for the units, one after the other.
        exclusive : bool, default False

        Raises
        ------
        SlotNotFoundError, SwapFileError, CorruptDataError, CodecError
            Some units could not be loaded: `slots` of the exception names them, and its `others`
            are the exceptions for slots that failed in another way. All the rest were loaded.
        """
        self._load(slots, buffer, exclusive, False)

    def _load(self, slots, out, exclusive: cython.bint, single: cython.bint):
        view: cython.Py_buffer
        keys: cython.Py_buffer
        s: Slots
        w: WorkContextP
        z: ZswapP = self.c
        unit: uint64_t = z.unit_bytes
        slot: uint64_t = 0
        bad: uint64_t = 0
        i: uint64_t
        one: int32_t = 0
        result: cython.pointer(int32_t) = cython.address(one)
        errno: int32_t = 0
        failed: list = []
        get_buffer(out, cython.address(view), True)
        memset(cython.address(keys), 0, cython.sizeof(cython.Py_buffer))
        try:
            if single:
                slot = get_slot(slots)
            if cython.cast(uint64_t, view.len) % unit or (single and view.len != unit):
                raise self._wrong_size(view.len, single)
            if not single:
                get_slots(slots, view.len // unit, cython.address(s), cython.address(keys))
                result = cython.cast(cython.pointer(int32_t), malloc(s.n * 4 + 4))
                if result == cython.NULL:
                    raise MemoryError("no memory for the results of the loads")
            with cython.nogil:
                w = context_get(z)
                if w != cython.NULL:
                    if single:
                        one = zswap_load(z, slot, cython.cast(U8P, view.buf), exclusive, w)
                        bad = one < 0
                    else:
                        bad = batch_load(
                            z, cython.address(s), cython.cast(U8P, view.buf), exclusive, result, w
                        )
                    errno = w.errno_seen
                    context_put(z, w)
            if bad:
                if single:
                    failed.append((slot, one))
                else:
                    failed += [(slot_at(cython.address(s), i), result[i])
                               for i in range(s.n) if result[i] < 0]
        finally:
            PyBuffer_Release(cython.address(view))
            PyBuffer_Release(cython.address(keys))
            if result != cython.address(one):
                free(result)
        if w == cython.NULL:
            raise ClosedError("this Zswap is closed")
        if bad:
            raise load_error(failed, errno)

    def invalidate(self, slot):
        """Forget what is stored under `slot`; was there anything?"""
        key: uint64_t = get_slot(slot)
        found: cython.bint = False
        z: ZswapP = self.c
        w: WorkContextP
        with cython.nogil:
            w = context_get(z)
            if w != cython.NULL:
                found = zswap_invalidate(z, key, w)
                context_put(z, w)
        if w == cython.NULL:
            raise ClosedError("this Zswap is closed")
        return found

    def invalidate_many(self, slots, count=None):
        """Forget many units in one call; how many there were.

        Parameters
        ----------
        slots : int, range, list, or array of uint64
        count : int, optional
            How many consecutive slots, when `slots` is the first of them.
        """
        keys: cython.Py_buffer
        s: Slots
        n: uint64_t
        w: WorkContextP
        z: ZswapP = self.c
        if (count is None) == isinstance(slots, int):
            raise UsageError("give count= with a first slot, and only then")
        get_slots(slots, count or 0, cython.address(s), cython.address(keys))
        w = cython.NULL
        try:
            w = self._enter()
            with cython.nogil:
                n = batch_invalidate(z, cython.address(s), w)
        finally:
            if w != cython.NULL:
                context_put(z, w)
            PyBuffer_Release(cython.address(keys))
        return n

    def contains(self, slot):
        """Is anything stored under `slot`?"""
        key: uint64_t = get_slot(slot)
        w: WorkContextP = self._enter()
        found: cython.bint = zswap_contains(self.c, key, w)
        context_put(self.c, w)
        return found

    def __contains__(self, slot):
        return isinstance(slot, int) and 0 <= slot < 1 << 64 and self.contains(slot)

    def __len__(self):
        """Units stored, in RAM and on disk."""
        w: WorkContextP = self._enter()
        z: ZswapP = self.c
        n: uint64_t = (
            total(z, GROUP_ROOT, F_SAME_UNITS) + total(z, GROUP_ROOT, F_RAM_UNITS)
            + total(z, GROUP_ROOT, F_DISK_UNITS)
        )
        context_put(z, w)
        return n

    def recompress(self, all=False):
        """Pack what stays cold once more, with `cold_codec`.

        Parameters
        ----------
        all : bool, default False
            Every unit, not only what was not used since the last call.

        Returns
        -------
        int
            Units that became smaller; 0 without a `cold_codec`.
        """
        whole: cython.bint = all
        out: Recompressed
        z: ZswapP = self.c
        w: WorkContextP = self._enter()
        out.units = 0
        out.scanned = 0
        out.freed_bytes = 0
        with cython.nogil:
            recompress_pass(z, whole, w, cython.address(out))
            context_put(z, w)
        return out.units
