"""A Memory without NumPy: the limit, the Zswap behind it, its threads, and runs of units.

Owns: the C side (state.pxd, where the lock order stands), the Zswap, and the threads (threads.py).
Guarantees: an allocation is refused (MemoryLimitError) when its content might find no place, in RAM
and swap file together, whatever it is, so that later a page can always be served; `overcommit`
gives that up for data that is known to compress.
Locks: none of its own.
"""

import os
import sys
import threading

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_store,
    a32_store_rel,
    a64_load,
    a64_load_rlx,
    a64_store_rlx,
    futex_wake,
)
from cython.cimports.coldmem.linux.userfaultfd import RIGHTS_FULL
from cython.cimports.coldmem.memory.account import memory_account
from cython.cimports.coldmem.memory.ahead import ahead_stop
from cython.cimports.coldmem.memory.bounds import array_bounds
from cython.cimports.coldmem.memory.calls import calls_watch
from cython.cimports.coldmem.memory.child import child_use_handlers
from cython.cimports.coldmem.memory.cool import cool_stop
from cython.cimports.coldmem.memory.deliver import deliver_add, deliver_remove
from cython.cimports.coldmem.memory.extent import Extent, Pin
from cython.cimports.coldmem.memory.fault import bring_in
from cython.cimports.coldmem.memory.follow import follow_begin, follow_end
from cython.cimports.coldmem.memory.reclaim import reclaimer_stop, take_out
from cython.cimports.coldmem.memory.region import (
    region_alloc,
    region_bell,
    region_close,
    region_hint,
    region_open,
    region_pinned,
    region_zero,
)
from cython.cimports.coldmem.memory.state import (
    AHEAD_AWAKE,
    HINT_NORMAL,
    HINT_RANDOM,
    HINT_SEQUENTIAL,
    RECLAIMER_IDLE,
    MemoryP,
)
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.state import WorkContextP
from cython.cimports.coldmem.zswap.zswap import Zswap
from cython.cimports.cpython.ref import Py_INCREF
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc
from cython.cimports.libc.string import memset

from coldmem.errors import (
    ClosedError,
    EnvironmentFailure,
    MemoryLimitError,
    UsageError,
)
from coldmem.memory.fork import watch
from coldmem.memory.rights import choose_delivery
from coldmem.memory.threads import READ_AHEAD, RECLAIM, RECOMPRESS, start_thread
from coldmem.memory.unblock import unblock_sigbus
from coldmem.units import format_bytes

MIB = 1 << 20
LEAST = 8 * MIB
_spare = []  # addresses of MemoryC; under the GIL
HINTS = {"normal": HINT_NORMAL, "sequential": HINT_SEQUENTIAL, "random": HINT_RANDOM}


def manager_alloc(m, promise, nbytes):
    if a64_load_rlx(cython.address(m.array_bytes)) + nbytes > promise:
        return cython.NULL
    if m.sigbus:
        calls_watch()
    return region_alloc(m, nbytes)


def bring_in_calm(m, first, n, w):
    return bring_in(m, first, n, 1, w)


class Manager:
    """See `coldmem.Memory`."""

    def __cinit__(self, *args, **kwargs):
        # Never freed, only used again: a signal handler may look at one that is being closed.
        if _spare:
            self.c = cython.cast(MemoryP, cython.cast(uint64_t, _spare.pop()))
            memset(self.c, 0, cython.sizeof(MemoryC))
        else:
            self.c = cython.cast(MemoryP, calloc(1, cython.sizeof(MemoryC)))
        if self.c == cython.NULL:
            raise MemoryError("no memory for a Memory")
        self.closed = True

    def _start(self, memory_max, swap_max, unit_bytes, delivery, directory, codec, overcommit,
               locking, cold_codec):
        """All quantities in bytes. Called once, by the constructor of Memory."""
        m: MemoryP = self.c
        capacity: uint64_t
        sigbus: cython.bint
        error: cython.int
        if memory_max < LEAST:
            raise UsageError(
                f"memory_max of {format_bytes(memory_max)}: at least {format_bytes(LEAST)} are needed"
            )
        if self.zswap is not None:
            raise UsageError("a Memory cannot be initialised twice")
        self.delivery = choose_delivery(delivery)
        # Never taken by the pool, whatever it holds: hot pages and tables need some room.
        pool_max = memory_max - max(memory_max // 16, 3 * MIB)
        self.zswap = Zswap(
            unit_bytes=unit_bytes, max_pool=pool_max, accept_threshold=0.97, codec=codec,
            locking=locking, cold_codec=cold_codec,
            swap=swap_max if swap_max else None, swap_directory=directory,
            entries_max=min(max(64 * (memory_max + swap_max) // unit_bytes, 1 << 16), (1 << 32) - 1),
        )
        self.memory_max = memory_max
        self.swap_max = swap_max
        self.overcommit = overcommit
        m.z = self.zswap.c
        m.unit_bytes = unit_bytes
        m.unit_shift = (unit_bytes - 1).bit_length()
        m.limit_bytes = memory_max
        reserve = min(max(memory_max // 64, MIB), 4 * MIB)
        step = min(max(memory_max // 100, MIB), 4 * MIB)
        m.hard_bytes = memory_max - reserve
        m.low_bytes = m.hard_bytes - step
        m.high_bytes = m.hard_bytes - 2 * step
        m.keep_bytes = memory_max // 2
        # Free memory of the pool that stays resident is missing where it counts: as hot pages.
        a64_store_rlx(cython.address(m.z.budget.dirty_bytes_max), max(memory_max // 256, MIB))
        # Incompressible units fill the pool and the swap file; a thirty-second goes into tables.
        self.promise = (1 << 62) if overcommit else (
            pool_max - reserve + swap_max - (memory_max + swap_max) // 32
        )
        capacity = min(max(16 * (memory_max + swap_max), 64 << 30), 8 << 40)
        sigbus = self.delivery == "sigbus"
        with cython.nogil:
            error = region_open(m, capacity, sigbus)
        if error:
            self.zswap.close()
            raise EnvironmentFailure(
                f"cannot manage a range of addresses: {os.strerror(-error)}; "
                "`coldmem doctor` says what this system permits"
            )
        if not sigbus and m.rights != RIGHTS_FULL:
            region_close(m)
            self.zswap.close()
            raise EnvironmentFailure("the right to serve faults of system calls was lost meanwhile")
        if sigbus:
            with cython.nogil:
                calls_watch()
        if deliver_add(m) != 0:
            region_close(m)
            self.zswap.close()
            raise UsageError("there are 64 memories already: close one")
        self.closed = False
        m.reclaimer = RECLAIMER_IDLE
        m.reclaimer_runs = 1
        self.threads = []
        self.pid = os.getpid()
        self._thread("reclaimer", RECLAIM)
        if len(os.sched_getaffinity(0)) > 1:
            m.ahead_state = AHEAD_AWAKE
            m.ahead_runs = 1
            self._thread("readahead", READ_AHEAD)
            if m.z.cold_codec:
                m.cool_runs = 1
                self._thread("recompressor", RECOMPRESS)
        if sigbus:
            unblock_sigbus()
        else:
            self._start_handlers()
        watch(self)

    def _thread(self, name, cpu):
        self.threads.append(start_thread(self, f"coldmem-{name}", cpu))

    def __dealloc__(self):
        if self.c != cython.NULL and self.closed:
            _spare.append(cython.cast(uint64_t, self.c))

    def __del__(self):
        if not self.closed and not sys.is_finalizing():
            self._stop()

    # -- fork, see child.py ------------------------------------------------------------------------
    def _after_fork_in_child(self):
        """0, or -errno where the arrays are lost."""
        error: cython.int
        self.threads = []
        self.pid = os.getpid()
        if self.c.lost == 0 and self.delivery == "handler":
            with cython.nogil:
                error = child_use_handlers(self.c)
            if error == 0:
                self._start_handlers()
        return self.c.lost

    def _start_handlers(self):
        cpus = sorted(os.sched_getaffinity(0))[:64]
        follow_begin(self.c, sum({1 << (cpu & 63) for cpu in cpus}))
        for number, cpu in enumerate(cpus):
            self._thread(f"faults-{number}", cpu)

    def _keep(self):
        """At interpreter exit: never destroyed."""
        Py_INCREF(self)

    def _stop(self):
        """Stop the threads, give everything back. No array is left."""
        m: MemoryP = self.c
        i: uint32_t
        n: uint32_t
        if self.pid != os.getpid():  # C code has forked: they are the parent's
            self.threads = []
        n = sum(thread.name.startswith("coldmem-faults") for thread in self.threads)
        with cython.nogil:
            a32_store_rel(cython.address(m.stop), 1)
            futex_wake(cython.address(m.stop), 0x7FFFFFFF)
            reclaimer_stop(m)
            follow_end(m)
            ahead_stop(m)
            cool_stop(m)
            for i in range(n):
                a64_load_rlx(cython.cast(cython.pointer(uint64_t), region_bell(m, i)))
        for thread in self.threads:
            if thread.ident != threading.get_ident():
                thread.join()
        self.threads = []
        with cython.nogil:
            deliver_remove(m)
        self.closed = True
        self.zswap.close()
        with cython.nogil:
            region_close(m)

    def close(self):
        """Give everything back. Closing twice is fine.

        Raises
        ------
        UsageError
            Arrays are still alive; nothing was closed.
        """
        if self.closed:
            return
        live = a64_load(cython.address(self.c.arrays))
        if not live:
            a32_store(cython.address(self.c.closing), 1)  # from here on allocations fail
            live = a64_load(cython.address(self.c.arrays))
        if live:
            a32_store(cython.address(self.c.closing), 0)
            size = format_bytes(a64_load_rlx(cython.address(self.c.array_bytes)))
            raise UsageError(
                f"{live} arrays of {size} are still alive in this Memory: delete them "
                "(and what was derived from them by slicing) before closing it"
            )
        self._stop()

    def _open_check(self):
        if self.closed:
            raise ClosedError("this Memory is closed")
        return 0

    def _units(self, array, first, n):
        """Units that the bytes of an array lie in. Raises if it is not ours."""
        start: uint64_t
        size: uint64_t
        base: uint64_t = cython.cast(uint64_t, self.c.base)
        self._open_check()
        low, high = array_bounds(array)
        start = low
        size = high - low
        if size == 0:
            first[0] = 0
            n[0] = 0
            return 0
        if start < base or start + size > base + (self.c.units_max << self.c.unit_shift):
            raise UsageError(
                "this array does not live in this Memory: make it with mem.array(...) or mem.zeros(...)"
            )
        first[0] = (start - base) >> self.c.unit_shift
        n[0] = ((start + size - 1 - base) >> self.c.unit_shift) + 1 - first[0]
        return 0

    # -- runs of units -----------------------------------------------------------------------------
    def allocate(self, nbytes):
        """A writable buffer of zeros, for `pyarrow.py_buffer`, `memoryview`, `ctypes` and the like.

        Parameters
        ----------
        nbytes : int
            1 or more.

        Returns
        -------
        Extent
            It has the buffer protocol; its memory is given back with its last reference.

        Raises
        ------
        MemoryLimitError
            RAM and swap file together might not hold it.
        """
        e: Extent
        size: uint64_t
        start: cython.p_void
        self._open_check()
        if not isinstance(nbytes, int) or nbytes < 1:
            raise UsageError(f"allocate({nbytes!r}): ask for 1 byte or more")
        if nbytes >= 1 << 62:
            raise self._no_room(nbytes)
        size = nbytes
        with cython.nogil:
            start = manager_alloc(self.c, self.promise, size)
        if start == cython.NULL:
            raise self._no_room(nbytes)
        e = Extent.__new__(Extent)
        e.c = self.c
        e.manager = self
        e.start = start
        e.nbytes = nbytes
        return e

    def _no_room(self, nbytes):
        taken = a64_load_rlx(cython.address(self.c.array_bytes))
        return MemoryLimitError(
            f"no room for {format_bytes(nbytes)}: arrays of {format_bytes(taken)} live in this Memory, "
            f"which has {format_bytes(self.memory_max)} of RAM (memory_max) and "
            f"{format_bytes(self.swap_max)} of swap file (swap_max) for them; raise one of them, delete "
            "arrays, or pass overcommit=True if the data is known to compress"
        )

    def owns(self, array):
        """Does this array live here?"""
        first: uint64_t = 0
        n: uint64_t = 0
        try:
            self._units(array, cython.address(first), cython.address(n))
        except UsageError:
            return False
        return n > 0

    def evict(self, array):
        """Compress what is in RAM of an array now; bytes that left. Pinned units stay."""
        return self._all_units(array, take_out)

    def prefetch(self, array):
        """Bring an array into RAM as far as there is room without taking others out.

        Bytes brought in.
        """
        return self._all_units(array, bring_in_calm)

    def _all_units(self, array, work):
        """Do `work` to the units of an array; bytes of those that it did it to."""
        first: uint64_t = 0
        n: uint64_t = 0
        done: uint64_t = 0
        w: WorkContextP
        self._units(array, cython.address(first), cython.address(n))
        with cython.nogil:
            w = context_get(self.c.z)
            if w != cython.NULL:
                done = work(self.c, first, n, w)
                context_put(self.c.z, w)
        return done << self.c.unit_shift

    def madvise(self, array, advice):
        """Say how an array will be used.

        Parameters
        ----------
        array : array
        advice : {"normal", "sequential", "random", "dontneed"}
            "dontneed" forgets the content of the units that lie wholly inside the array: they read
            as zeros from then on. The others steer readahead.
        """
        first: uint64_t = 0
        n: uint64_t = 0
        hint: uint32_t
        w: WorkContextP
        self._units(array, cython.address(first), cython.address(n))
        if advice in HINTS:
            hint = HINTS[advice]
            with cython.nogil:
                region_hint(self.c, first, n, hint)
            return
        if advice != "dontneed":
            raise UsageError(
                f"madvise(..., {advice!r}): choose 'normal', 'sequential', 'random' or 'dontneed'"
            )
        low, high = array_bounds(array)
        base = cython.cast(uint64_t, self.c.base)
        unit = self.c.unit_bytes
        begin = (low - base + unit - 1) // unit
        end = (high - base) // unit
        if end > begin:
            first, n = begin, end - begin
            if region_pinned(self.c, first, n):
                raise UsageError("madvise(..., 'dontneed'): a part of this array is pinned")
            with cython.nogil:
                w = context_get(self.c.z)
                if w != cython.NULL:
                    region_zero(self.c, first, n, w)
                    context_put(self.c.z, w)

    def pinned(self, array):
        """Keep an array in RAM, writable, inside a ``with`` block.

        No system call finds a page of it missing, and no device loses a write: what direct I/O,
        io_uring or a GPU is to write into *must* be pinned for as long as they may write, since
        their writes pass by the page protection that tells us of changes.

        Raises
        ------
        MemoryLimitError
            More than three quarters of the limit would be pinned.
        """
        pin: Pin = Pin.__new__(Pin)
        pin.c = self.c
        pin.keep = (self, array)
        self._units(array, cython.address(pin.first), cython.address(pin.n))
        return pin

    # -- what it looks like ------------------------------------------------------------------------
    def stats(self):
        """The account at this moment, in bytes, and counts since the beginning.

        Returns
        -------
        dict
            ``array_bytes`` (of live arrays), ``hot_bytes`` (of pages in RAM), ``compressed_bytes``
            (pool), ``metadata_bytes``, ``footprint_bytes`` (their sum with free memory of the pool),
            ``footprint_peak_bytes``, ``memory_max_bytes``, ``swap_bytes`` (in the swap file), ``ratio``
            (original bytes per byte as stored, in RAM and on disk), and the counters of faults and
            reclaim. ``recompressed_bytes`` is one of these: it counts since the beginning.
        """
        self._open_check()
        return {
            "memory_max_bytes": self.memory_max,
            "swap_max_bytes": self.swap_max,
            "delivery": self.delivery,
            **memory_account(self.c, self.zswap.stats()),
        }
