"""`Pool`: the allocator as Python sees it.

Owns: the C pool (core.py, where the lock order stands), its geometry, its name.
Guarantees: every call checks its handle; misuse raises and leaves the pool as it was. The GIL is
released for what is done to objects. `close` waits for calls in other threads; a pool that is not
closed is freed with its last reference.
Locks: `users` counts threads that are inside, `views` open views; `closing` keeps new ones out.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add,
    a32_fetch_add_rel,
    a32_load,
    a32_store,
    a64_load_rlx,
    cpus_configured,
    sched_yield,
)
from cython.cimports.coldmem.zsmalloc.arena import arena_trim
from cython.cimports.coldmem.zsmalloc.check import check_valid
from cython.cimports.coldmem.zsmalloc.compact import zs_can_compact, zs_compact
from cython.cimports.coldmem.zsmalloc.construct import pool_destroy, pool_new
from cython.cimports.coldmem.zsmalloc.inspect import class_stats, lock_stats, pool_stats
from cython.cimports.coldmem.zsmalloc.magazine import magazines_init
from cython.cimports.coldmem.zsmalloc.migrate import zs_migrate
from cython.cimports.coldmem.zsmalloc.view import View
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import memcpy

from coldmem.errors import (
    ClosedError,
    DoubleFreeError,
    ForeignHandleError,
    HandleBusyError,
    InvalidSizeError,
    MemoryLimitError,
    StaleHandleError,
    UsageError,
)
from coldmem.units import format_bytes, parse_bytes
from coldmem.zsmalloc.arguments import (
    LOCKINGS,
    as_handle,
    bytes_of,
    check_ranges,
    default_capacity,
    magazine_size,
)
from coldmem.zsmalloc.shrinker import Shrinker
from coldmem.zsmalloc.size_class import SizeClasses


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
class Pool:
    """A compressed-memory allocator: zsmalloc in user space.

    Parameters
    ----------
    unit_bytes : int or str, default 4096
        Largest object: 4096, 16384 or 65536.
    chain : int, default 8
        Most units in a zspage, 1..16.
    chain_rule : {"waste", "percent"}
        How the length of a zspage is chosen; see `coldmem.zsmalloc.SizeClasses`.
    locking : {"handle", "class", "pool"}
        How threads are kept apart; see the design document.
    magazines : bool or int, default False
        Objects that each CPU keeps at hand per class (7 when True); only with ``"handle"``.
    limit : int or str, optional
        Most bytes of zspages. Never exceeded. Default: as much as `capacity`.
    capacity : int or str, optional
        Address space to reserve; costs no memory. Default: 16 times the limit for each node.
    lock_statistics : bool, default False
        Count acquisitions and waits.
    compact_batch : int, default 8
        Objects that compaction and migration move per hold of the locks.
    name : str
    nodes : int, default 1
        Simulated NUMA nodes, 1..16: equal parts of the address space. No memory is bound to a real
        node; see the design document.

    Raises
    ------
    UsageError
        An argument is wrong.
    EnvironmentFailure
        The address space is refused (``ulimit -v``, strict overcommit): give a smaller `capacity`.
    """

    def __cinit__(self, *args, **kwargs):
        self.c = cython.NULL

    def __init__(self, unit_bytes=4096, chain=8, chain_rule="waste", locking="handle",
                 magazines=False, limit=None, capacity=None, lock_statistics=False,
                 compact_batch=8, name="pool", nodes=1):
        wanted = None if limit is None else parse_bytes(limit)
        room = (parse_bytes(capacity) if capacity is not None
                else default_capacity(wanted, 1, nodes))
        self._open(parse_bytes(unit_bytes), chain, chain_rule, locking, magazines, wanted, room,
                   lock_statistics, compact_batch, name, nodes, cython.NULL)

    def _open(self, unit_bytes, chain, chain_rule, locking, magazines, limit, capacity,
              lock_statistics, compact_batch, name, nodes, budget):
        if self.c != cython.NULL:
            raise UsageError("a pool cannot be initialised twice")
        self.size_classes = SizeClasses(unit_bytes, chain, chain_rule)
        self.magazines = magazine_size(locking, magazines)
        self.locking = locking
        self.name = name
        check_ranges(compact_batch, nodes, limit, chain * unit_bytes)
        self.nodes = nodes
        capacity = max(capacity, chain * unit_bytes * nodes)
        self.c = pool_new(self.size_classes, capacity, capacity if limit is None else limit, nodes,
                          budget, lock_statistics)
        self.c.compact_batch = compact_batch
        self.c.locking = LOCKINGS.index(locking)
        if self.magazines and magazines_init(self.c, cpus_configured(), self.magazines) != 0:
            raise MemoryError("no memory for magazines")

    def __dealloc__(self):
        if self.c != cython.NULL:
            pool_destroy(self.c)

    def _enter(self):
        a32_fetch_add(cython.address(self.users), 1)
        if a32_load(cython.address(self.closing)) or self.c == cython.NULL:
            a32_fetch_add_rel(cython.address(self.users), -1)
            raise ClosedError(f"pool {self.name!r} is closed")
        return 0

    def _leave(self):
        a32_fetch_add_rel(cython.address(self.users), -1)

    # -- objects -----------------------------------------------------------------------------------
    def malloc(self, size, node=0):
        """Allocate an object; its content is undefined until it is written.

        Parameters
        ----------
        size : int
            Payload in bytes, 1..unit_bytes.
        node : int, default 0
            Where a new zspage is wanted, if it takes one: an object goes to the fullest zspage that
            has room for it, on whatever node. When the range of `node` is used up, to another node.

        Returns
        -------
        int
            The handle. It stays the same when compaction moves the object.

        Raises
        ------
        InvalidSizeError
            `size` is 0, negative or above the unit.
        MemoryLimitError
            The pool is full.
        """
        h: uint64_t
        n: uint32_t = self._size(size)
        at: uint32_t = self._node(node)
        self._enter()
        try:
            with cython.nogil:
                h = zs_malloc_node(self.c, n, at)
                if h:
                    zs_publish(self.c, h)
        finally:
            self._leave()
        if h == 0:
            raise self._full(n)
        return h

    def store(self, data, node=0):
        """Allocate an object that holds `data` (a contiguous buffer), on `node` as `malloc`; its handle.

        Raises
        ------
        InvalidSizeError, MemoryLimitError
            As `malloc`.
        """
        h: uint64_t
        view: cython.const[cython.uchar][::1] = bytes_of(data)
        n: uint32_t = self._size(view.shape[0])
        at: uint32_t = self._node(node)
        self._enter()
        try:
            with cython.nogil:
                h = zs_malloc_node(self.c, n, at)
                if h:
                    zs_write(self.c, h, cython.address(view[0]), n)
        finally:
            self._leave()
        if h == 0:
            raise self._full(n)
        return h

    def free(self, handle):
        """Free an object.

        Raises
        ------
        DoubleFreeError, StaleHandleError, ForeignHandleError
            The handle names no live object of this pool.
        HandleBusyError
            A view of the object is open; nothing was freed.
        """
        error: int32_t
        h: uint64_t = as_handle(handle)
        self._enter()
        try:
            with cython.nogil:
                error = zs_free(self.c, h)
        finally:
            self._leave()
        if error != ZS_OK:
            _raise(error, handle)

    def read(self, handle):
        """A copy of the object's bytes. Raises as `free` does for a bad handle."""
        v: View = self.view(handle)
        data: bytes = cython.cast(cython.p_char, v.data)[:v.size]
        v._end()
        return data

    def read_into(self, handle, out):
        """Copy the object into the writable buffer `out`; bytes copied.

        Raises
        ------
        InvalidSizeError
            `out` is shorter than the object.
        """
        target: cython.uchar[::1] = bytes_of(out)
        v: View = self.view(handle)
        n: cython.Py_ssize_t = v.size
        if target.shape[0] < n:
            v._end()
            raise InvalidSizeError(f"buffer of {target.shape[0]} bytes for an object of {n}")
        with cython.nogil:
            memcpy(cython.address(target[0]), v.data, n)
        v._end()
        return n

    def view(self, handle):
        """The object's bytes in place, without a copy.

        Returns
        -------
        View
            Context manager that gives a read-only memoryview. The object is held still while it is
            open: with locking "handle" this object alone, else its whole zspage. It must not be
            freed nor written meanwhile.
        """
        v: View = View.__new__(View)
        error: int32_t = 0
        h: uint64_t = as_handle(handle)
        self._enter()
        try:
            with cython.nogil:
                v.data = zs_read_begin(self.c, h, cython.address(v.token), cython.address(error))
            if v.data == cython.NULL:
                _raise(error, handle)
            a32_fetch_add(cython.address(self.views), 1)
            v.pool = self
            v.c = self.c
            v.open_views = cython.address(self.views)
            v.handle = h
            v.size = zs_size(self.c, h)
        finally:
            self._leave()
        return v

    def write(self, handle, data):
        """Overwrite an object in place, from its start, with `data` (not more than its size).

        The caller sees to it that nobody reads the object meanwhile.

        Raises
        ------
        InvalidSizeError
            `data` is longer than the object.
        HandleBusyError
            A view of the object is open.
        """
        source: cython.const[cython.uchar][::1] = bytes_of(data)
        h: uint64_t = as_handle(handle)
        n: cython.size_t = source.shape[0]
        error: int32_t = ZS_OK
        size = self.size_of(handle)
        if n > size:
            raise InvalidSizeError(f"{n} bytes do not fit an object of {size}")
        if n == 0:
            return
        self._enter()
        try:
            with cython.nogil:
                error = zs_rewrite(self.c, h, cython.address(source[0]), n)
        finally:
            self._leave()
        if error != ZS_OK:
            _raise(error, handle)

    def size_of(self, handle):
        """Payload bytes of a live object."""
        v: View = self.view(handle)
        n: cython.Py_ssize_t = v.size
        v._end()
        return n

    def _size(self, size):
        if not isinstance(size, int) or not 1 <= size <= self.size_classes.unit_bytes:
            raise InvalidSizeError(
                f"object of {size} bytes: this pool stores 1 to "
                f"{self.size_classes.unit_bytes} bytes each"
            )
        return size

    def _node(self, node):
        if not isinstance(node, int) or not 0 <= node < self.nodes:
            raise UsageError(f"node {node}: this pool has nodes 0 to {self.nodes - 1}")
        return node

    def _full(self, size):
        return MemoryLimitError(
            f"pool {self.name!r} has no room for {size} bytes: {format_bytes(self.used_bytes)} of "
            f"{format_bytes(self.limit_bytes)} are used; free objects, compact, or raise the limit"
        )

    # -- the whole pool ----------------------------------------------------------------------------
    def compact(self):
        """Move objects together and free what becomes empty.

        Returns
        -------
        int
            Units freed; 0 at once when another thread compacts or migrates this pool.
        """
        freed: uint64_t
        self._enter()
        try:
            with cython.nogil:
                freed = zs_compact(self.c)
        finally:
            self._leave()
        return freed

    def can_compact(self):
        """Units that compaction could free, read without any lock."""
        self._enter()
        try:
            return zs_can_compact(self.c)
        finally:
            self._leave()

    def migrate(self, node, from_node=None):
        """Move zspages to a node, objects, handles and all; the kernel's page migration.

        Parameters
        ----------
        node : int
            Where they go.
        from_node : int, optional
            Only what lies there. Default: everything that is not on `node`.

        Returns
        -------
        int
            Units moved; 0 at once when another thread migrates or compacts this pool. A zspage with
            an object that is being read stays, wholly or in part, and so does one for whose copy the
            limit or the node has no room.
        """
        units: uint64_t
        to: uint32_t = self._node(node)
        origin: int32_t = -1 if from_node is None else self._node(from_node)
        self._enter()
        try:
            with cython.nogil:
                units = zs_migrate(self.c, to, origin)
        finally:
            self._leave()
        return units

    def shrinker(self):
        """The pool's shrinker hook: a `Shrinker` that counts with `can_compact`, scans by `compact`."""
        return Shrinker(f"zsmalloc:{self.name}", self.can_compact, self.compact)

    def trim(self):
        """Give all free memory back to the OS, magazines emptied first; bytes given back."""
        n: uint64_t
        self._enter()
        try:
            with cython.nogil:
                zs_drain(self.c)
                n = arena_trim(cython.address(self.c.arena))
        finally:
            self._leave()
        return n

    def lookup_class_index(self, size):
        """Index of the class that stores a payload of `size` bytes, its header counted."""
        return self.size_classes.lookup(size).index

    @property
    def unit_bytes(self):
        """Largest object in bytes."""
        return self.size_classes.unit_bytes

    @property
    def huge_class_size(self):
        """Payloads of this many bytes or more take a unit each."""
        return self.size_classes.huge_class_size

    @property
    def used_bytes(self):
        """Memory of all zspages, of all pools that share the limit."""
        self._enter()
        try:
            return zs_used_bytes(self.c)
        finally:
            self._leave()

    @property
    def limit_bytes(self):
        """Most bytes of zspages, shared with the other pools of a `Pools`."""
        self._enter()
        try:
            return a64_load_rlx(cython.address(self.c.arena.budget.limit_bytes))
        finally:
            self._leave()

    def stats(self):
        """The pool at this moment, as `PoolStats`."""
        self._enter()
        try:
            return pool_stats(self.c)
        finally:
            self._leave()

    def class_stats(self):
        """The columns of debugfs `classes`: a list of `ClassStats`, smallest class first."""
        self._enter()
        try:
            return class_stats(self.c)
        finally:
            self._leave()

    def lock_stats(self):
        """`LockStats` by kind of lock: pool, class, migrate, arena. Zeros unless `lock_statistics`."""
        self._enter()
        try:
            return lock_stats(self.c)
        finally:
            self._leave()

    def check_valid(self, level="full"):
        """Check the invariants; other threads may go on meanwhile.

        Parameters
        ----------
        level : {"cheap", "full"}
            "cheap" walks the lists of zspages, "full" also every object and handle.

        Raises
        ------
        CorruptPoolError
            A structure contradicts itself.
        """
        self._enter()
        try:
            check_valid(self.c, self.name, level)
        finally:
            self._leave()

    def close(self):
        """Free all memory. Waits for calls in other threads; closing twice is fine.

        Raises
        ------
        HandleBusyError
            A view is open; the pool stays as it was.
        """
        p: PoolP
        if a32_fetch_add(cython.address(self.closing), 1) != 0 or self.c == cython.NULL:
            return
        with cython.nogil:
            while a32_load(cython.address(self.users)) != 0:
                sched_yield()
        if a32_load(cython.address(self.views)) != 0:
            a32_store(cython.address(self.closing), 0)
            raise HandleBusyError(f"pool {self.name!r}: end all views before closing it")
        p = self.c
        self.c = cython.NULL
        with cython.nogil:
            pool_destroy(p)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __repr__(self):
        return (f"<coldmem.zsmalloc.Pool {self.name!r} locking={self.locking!r} "
                f"unit={self.unit_bytes}>")
