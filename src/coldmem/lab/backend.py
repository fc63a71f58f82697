"""`Backend`: zbud or z3fold as Python sees them, with the contract of `coldmem.zsmalloc.Pool`.

Owns: the C pool (`backend_core`, where the lock order stands), its name.
Guarantees: every call checks its handle; misuse raises what `Pool` raises and leaves the pool as it was.
The GIL is released for what is done to objects. `close` waits for calls in other threads; a pool that is
not closed is freed with its last reference.
Locks: `users` counts threads that are inside, `views` open views; `closing` keeps new ones out.
"""

import itertools

import cython
from cython.cimports.coldmem.lab.backend_check import (
    BackendCounts,
    BackendFinding,
    backend_check,
    backend_counts,
)
from cython.cimports.coldmem.lab.backend_core import (
    PAGE_BYTES,
    SHARED_BYTES_MAX,
    BackendC,
    BackendP,
    backend_destroy,
    backend_init,
    backend_rewrite,
)
from cython.cimports.coldmem.lab.z3fold import z3fold_ops
from cython.cimports.coldmem.lab.zbud import zbud_ops
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add,
    a32_fetch_add_rel,
    a32_load,
    a32_store,
    a64_load_rlx,
    sched_yield,
)
from cython.cimports.coldmem.linux.lock import LockCounts, mutex_counts
from cython.cimports.coldmem.zsmalloc.arena import arena_trim
from cython.cimports.coldmem.zsmalloc.core import (
    ZS_BUSY,
    ZS_DOUBLE_FREE,
    ZS_FOREIGN,
    ZS_OK,
)
from cython.cimports.coldmem.zsmalloc.handle import handle_index
from cython.cimports.cpython.buffer import PyBuffer_FillInfo
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free
from cython.cimports.libc.string import memcpy, memset
from cython.cimports.posix.stdlib import posix_memalign

from coldmem.errors import (
    ClosedError,
    CorruptPoolError,
    DoubleFreeError,
    EnvironmentFailure,
    ForeignHandleError,
    HandleBusyError,
    InvalidSizeError,
    MemoryLimitError,
    StaleHandleError,
    UsageError,
)
from coldmem.lab.backend_stats import BackendStats
from coldmem.units import format_bytes, parse_bytes
from coldmem.zsmalloc.arguments import as_handle, bytes_of
from coldmem.zsmalloc.stats import LockStats

KINDS = ("zbud", "z3fold")
DEFAULT_CAPACITY = 64 << 30
_tags = itertools.count(1)


def _raise(error: cython.int, handle: object):
    if error == ZS_FOREIGN:
        raise ForeignHandleError(f"handle {handle:#x} was not given out by this pool")
    if error == ZS_DOUBLE_FREE:
        raise DoubleFreeError(f"handle {handle:#x} was freed already")
    if error == ZS_BUSY:
        raise HandleBusyError(f"handle {handle:#x} is being read: end the read or view first")
    raise StaleHandleError(f"handle {handle:#x} is stale: its object was freed")


# no_gc_clear: __dealloc__ uses the budget of the owner, which a collected cycle must not drop first.
@cython.no_gc_clear
@cython.cclass
class Backend:
    """A pool of zbud or z3fold, for comparison with `coldmem.zsmalloc.Pool`.

    Parameters
    ----------
    kind : {"zbud", "z3fold"}
        Which allocator.
    limit : int or str, optional
        Most bytes of pages. Never exceeded. Default: as much as `capacity`.
    capacity : int or str, optional
        Address space to reserve; costs no memory. Default: the limit, or 64 GiB.
    lock_statistics : bool, default False
        Count acquisitions and waits.
    name : str, optional
        For messages.

    Raises
    ------
    UsageError
        An argument is wrong.
    EnvironmentFailure
        The address space is refused: give a smaller `capacity`.
    """

    def __cinit__(self, *args, **kwargs):
        self.c = cython.NULL

    def __init__(self, kind, limit=None, capacity=None, lock_statistics=False, name=None):
        wanted = None if limit is None else parse_bytes(limit)
        room = wanted if capacity is None else parse_bytes(capacity)
        self._open(kind, wanted, DEFAULT_CAPACITY if room is None else room, lock_statistics, name,
                   cython.NULL)

    def _open(self, kind, limit, capacity, lock_statistics, name, budget):
        memory: cython.p_void = cython.NULL
        if self.c != cython.NULL:
            raise UsageError("a pool cannot be initialised twice")
        if kind not in KINDS:
            raise UsageError(f"backend {kind!r}: choose one of {KINDS}")
        if limit is not None and limit < PAGE_BYTES:
            raise UsageError(f"limit of {limit} bytes: one page needs {PAGE_BYTES}")
        self.kind = kind
        self.name = name or kind
        capacity = max(capacity, limit or 0, PAGE_BYTES)
        if posix_memalign(cython.address(memory), 128, cython.sizeof(BackendC)) != 0:
            raise MemoryError("no memory for a pool")
        if backend_init(cython.cast(BackendP, memory), capacity,
                        capacity if limit is None else limit, budget,
                        next(_tags) & 0x3FF, lock_statistics) != 0:
            free(memory)
            raise EnvironmentFailure(
                f"the system refuses {format_bytes(capacity)} of address space for a pool: "
                "pass a smaller capacity= (at least the limit), or raise ulimit -v"
            )
        if kind == "zbud":
            zbud_ops(cython.address(self.ops))
            self.object_bytes_max = SHARED_BYTES_MAX
        else:
            z3fold_ops(cython.address(self.ops))
            self.object_bytes_max = PAGE_BYTES
        self.c = cython.cast(BackendP, memory)

    def __dealloc__(self):
        if self.c != cython.NULL:
            backend_destroy(self.c)
            free(self.c)

    def _enter(self):
        a32_fetch_add(cython.address(self.users), 1)
        if a32_load(cython.address(self.closing)) or self.c == cython.NULL:
            a32_fetch_add_rel(cython.address(self.users), -1)
            raise ClosedError(f"pool {self.name!r} is closed")
        return 0

    def _leave(self):
        a32_fetch_add_rel(cython.address(self.users), -1)

    # -- objects -----------------------------------------------------------------------------------
    def malloc(self, size):
        """Allocate an object of `size` bytes; its content is undefined. See `Pool.malloc`."""
        h: uint64_t
        n: uint32_t = self._size(size)
        self._enter()
        try:
            with cython.nogil:
                h = self.ops.malloc(self.c, n)
                if h:
                    self.ops.read_end(self.c, h, 0)  # it is born pinned
        finally:
            self._leave()
        if h == 0:
            raise self._full(n)
        return h

    def store(self, data):
        """Allocate an object that holds `data`; its handle. See `Pool.store`."""
        h: uint64_t
        view: cython.const[cython.uchar][::1] = bytes_of(data)
        n: uint32_t = self._size(view.shape[0])
        self._enter()
        try:
            with cython.nogil:
                h = self.ops.malloc(self.c, n)
                if h:
                    self.ops.write(self.c, h, cython.address(view[0]), n)
        finally:
            self._leave()
        if h == 0:
            raise self._full(n)
        return h

    def free(self, handle):
        """Free an object. Raises as `Pool.free` does."""
        error: int32_t
        h: uint64_t = as_handle(handle)
        self._enter()
        try:
            with cython.nogil:
                error = self.ops.free(self.c, h)
        finally:
            self._leave()
        if error != ZS_OK:
            _raise(error, handle)

    def read(self, handle):
        """A copy of the object's bytes."""
        v: BackendView = self.view(handle)
        data: bytes = cython.cast(cython.p_char, v.data)[:v.size]
        v._end()
        return data

    def read_into(self, handle, out):
        """Copy the object into the writable buffer `out`; bytes copied. See `Pool.read_into`."""
        target: cython.uchar[::1] = bytes_of(out)
        v: BackendView = self.view(handle)
        n: cython.Py_ssize_t = v.size
        if target.shape[0] < n:
            v._end()
            raise InvalidSizeError(f"buffer of {target.shape[0]} bytes for an object of {n}")
        with cython.nogil:
            memcpy(cython.address(target[0]), v.data, n)
        v._end()
        return n

    def view(self, handle):
        """The object's bytes in place, held still while the view is open. See `Pool.view`."""
        v: BackendView = BackendView.__new__(BackendView)
        error: int32_t = 0
        token: uint64_t = 0
        h: uint64_t = as_handle(handle)
        self._enter()
        try:
            with cython.nogil:
                v.data = self.ops.read_begin(
                    self.c, h, cython.address(token), cython.address(error))
            if v.data == cython.NULL:
                _raise(error, handle)
            a32_fetch_add(cython.address(self.views), 1)
            v.pool = self
            v.handle = h
            v.size = self.c.handles[handle_index(h)].size
        finally:
            self._leave()
        return v

    def write(self, handle, data):
        """Overwrite an object from its start with `data`, not more than its size. See `Pool.write`."""
        source: cython.const[cython.uchar][::1] = bytes_of(data)
        h: uint64_t = as_handle(handle)
        n: cython.size_t = source.shape[0]
        error: int32_t
        size = self.size_of(handle)
        if n > size:
            raise InvalidSizeError(f"{n} bytes do not fit an object of {size}")
        if n == 0:
            return
        self._enter()
        try:
            with cython.nogil:
                error = backend_rewrite(self.c, h, cython.address(source[0]), n)
        finally:
            self._leave()
        if error != ZS_OK:
            _raise(error, handle)

    def size_of(self, handle):
        """Payload bytes of a live object."""
        v: BackendView = self.view(handle)
        n: cython.Py_ssize_t = v.size
        v._end()
        return n

    def _size(self, size):
        if not isinstance(size, int) or not 1 <= size <= PAGE_BYTES:
            raise InvalidSizeError(
                f"object of {size} bytes: {self.kind} stores 1 to {self.object_bytes_max} bytes each")
        if size > self.object_bytes_max:
            self._enter()
            try:
                self.ops.malloc(self.c, size)  # counts it
            finally:
                self._leave()
            raise InvalidSizeError(
                f"object of {size} bytes: {self.kind} stores 1 to {self.object_bytes_max} bytes each")
        return size

    def _full(self, size):
        return MemoryLimitError(
            f"pool {self.name!r} has no room for {size} bytes: {format_bytes(self.used_bytes)} of "
            f"{format_bytes(self.limit_bytes)} are used; free objects, compact, or raise the limit"
        )

    # -- the whole pool ----------------------------------------------------------------------------
    def compact(self):
        """z3fold: move lone objects together; pages freed. zbud: nothing moves, always 0."""
        freed: uint64_t
        self._enter()
        try:
            with cython.nogil:
                freed = self.ops.compact(self.c)
        finally:
            self._leave()
        return freed

    def trim(self):
        """Give all free memory back to the OS; bytes given back."""
        n: uint64_t
        self._enter()
        try:
            with cython.nogil:
                n = arena_trim(cython.address(self.c.arena))
        finally:
            self._leave()
        return n

    @property
    def used_bytes(self):
        """Memory of all pages, of all pools that share the limit."""
        self._enter()
        try:
            return a64_load_rlx(cython.address(self.c.arena.budget.used_bytes))
        finally:
            self._leave()

    @property
    def limit_bytes(self):
        """Most bytes of pages, shared with the other pools of a `Backends`."""
        self._enter()
        try:
            return a64_load_rlx(cython.address(self.c.arena.budget.limit_bytes))
        finally:
            self._leave()

    def stats(self):
        """The pool at this moment, as `BackendStats`."""
        b: BackendP
        now: BackendCounts
        self._enter()
        try:
            b = self.c
            with cython.nogil:
                backend_counts(b, cython.address(now))
            return BackendStats(
                used_bytes=a64_load_rlx(cython.address(b.arena.budget.used_bytes)),
                limit_bytes=a64_load_rlx(cython.address(b.arena.budget.limit_bytes)),
                peak_bytes=a64_load_rlx(cython.address(b.arena.budget.peak_bytes)),
                objects=now.objects, pages=now.pages + now.headless, headless_pages=now.headless,
                full_pages=now.full, refused=a64_load_rlx(cython.address(b.refused)),
                objects_moved=now.moved, pages_compacted=now.compacted,
                resident_free_bytes=now.resident_free_bytes, released_bytes=now.released_bytes,
                metadata_bytes=now.metadata_bytes,
            )
        finally:
            self._leave()

    def lock_stats(self):
        """`LockStats` by kind of lock: pool, arena. Zeros unless `lock_statistics`."""
        counts: LockCounts
        kinds = {}
        self._enter()
        try:
            memset(cython.address(counts), 0, cython.sizeof(LockCounts))
            with cython.nogil:
                mutex_counts(cython.address(self.c.lock), cython.address(counts))
            kinds["pool"] = LockStats(counts.acquisitions, counts.contended, counts.wait_ns)
            memset(cython.address(counts), 0, cython.sizeof(LockCounts))
            with cython.nogil:
                mutex_counts(cython.address(self.c.arena.lock), cython.address(counts))
            kinds["arena"] = LockStats(counts.acquisitions, counts.contended, counts.wait_ns)
        finally:
            self._leave()
        return kinds

    def check_valid(self, level="full"):
        """Check the invariants: `level` "cheap" pages and lists, "full" every handle too.

        Raises
        ------
        CorruptPoolError
            A structure contradicts itself.
        """
        found: BackendFinding
        full: cython.bint = level == "full"
        three: cython.bint = self.kind == "z3fold"
        if level not in ("cheap", "full"):
            raise UsageError(f"level {level!r}: choose 'cheap' or 'full'")
        self._enter()
        try:
            with cython.nogil:
                backend_check(self.c, three, full, cython.address(found))
        finally:
            self._leave()
        if found.what != cython.NULL:
            raise CorruptPoolError(f"pool {self.name!r}: {found.what.decode()} "
                                   f"(page {found.page}, {found.number})")

    def close(self):
        """Free all memory. Waits for calls in other threads; closing twice is fine.

        Raises
        ------
        HandleBusyError
            A view is open; the pool stays as it was.
        """
        b: BackendP
        if a32_fetch_add(cython.address(self.closing), 1) != 0 or self.c == cython.NULL:
            return
        with cython.nogil:
            while a32_load(cython.address(self.users)) != 0:
                sched_yield()
        if a32_load(cython.address(self.views)) != 0:
            a32_store(cython.address(self.closing), 0)
            raise HandleBusyError(f"pool {self.name!r}: end all views before closing it")
        b = self.c
        self.c = cython.NULL
        with cython.nogil:
            backend_destroy(b)
            free(b)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


# no_gc_clear: __dealloc__ uses the pool, which a collected cycle must not drop first.
@cython.no_gc_clear
@cython.cclass
class BackendView:
    """An object of a pool held still; see `Backend.view`."""

    def __enter__(self):
        self.shown = memoryview(self)
        return self.shown

    def __exit__(self, *exc):
        if self.shown is not None:
            self.shown.release()
            self.shown = None
        if self.exports:
            raise BufferError("arrays or slices of this view are still in use: delete them first")
        self._end()

    def _end(self):
        if self.data != cython.NULL:
            self.pool.ops.read_end(self.pool.c, self.handle, 0)
            self.data = cython.NULL
            a32_fetch_add_rel(cython.address(self.pool.views), -1)

    def __getbuffer__(self, buffer: cython.pointer(Py_buffer), flags: cython.int):
        if self.data == cython.NULL:
            raise HandleBusyError("this view has ended")
        PyBuffer_FillInfo(buffer, self, cython.cast(cython.p_void, self.data), self.size, True, flags)
        self.exports += 1

    def __releasebuffer__(self, buffer: cython.pointer(Py_buffer)):
        self.exports -= 1

    def __dealloc__(self):
        if self.data != cython.NULL:
            self._end()
