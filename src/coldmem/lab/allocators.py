"""Any allocator of the lab as a native loop sees it: its pools, and the functions to call on them.

Owns: the array of pools, and a reference to what was passed. Takes no locks.
"""

import cython
from cython.cimports.coldmem.lab.allocator import payload_t
from cython.cimports.coldmem.lab.backend import Backend
from cython.cimports.coldmem.lab.backends import Backends
from cython.cimports.coldmem.zsmalloc.compact import zs_can_compact, zs_compact
from cython.cimports.coldmem.zsmalloc.core import (
    PoolP,
    zs_free,
    zs_malloc,
    zs_read_begin,
    zs_read_end,
    zs_write,
)
from cython.cimports.coldmem.zsmalloc.pool import Pool
from cython.cimports.coldmem.zsmalloc.pools import Pools
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free

from coldmem.errors import UsageError

u64_p = cython.typedef(cython.pointer(uint64_t))
i32_p = cython.typedef(cython.pointer(int32_t))


# zsmalloc's own functions take a pool of their type; a table takes any.
@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _malloc(p: cython.p_void, size: uint32_t) -> uint64_t:
    return zs_malloc(cython.cast(PoolP, p), size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _write(p: cython.p_void, handle: uint64_t, src: payload_t, n: uint32_t) -> cython.void:
    zs_write(cython.cast(PoolP, p), handle, src, n)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _free(p: cython.p_void, handle: uint64_t) -> int32_t:
    return zs_free(cython.cast(PoolP, p), handle)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read_begin(p: cython.p_void, handle: uint64_t, token: u64_p, error: i32_p) -> payload_t:
    return zs_read_begin(cython.cast(PoolP, p), handle, token, error)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _read_end(p: cython.p_void, handle: uint64_t, token: uint64_t) -> cython.void:
    zs_read_end(cython.cast(PoolP, p), handle, token)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _can_compact(p: cython.p_void) -> uint64_t:
    return zs_can_compact(cython.cast(PoolP, p))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _compact(p: cython.p_void) -> uint64_t:
    return zs_compact(cython.cast(PoolP, p))


class Allocators:
    """What `pool` consists of: a Pool, Pools, a Backend or Backends."""

    def __init__(self, pool):
        single: Pool
        many: Pools
        one: Backend
        several: Backends
        i: cython.uint
        if self.pools != cython.NULL:
            raise UsageError("allocators cannot be initialised twice")
        if not isinstance(pool, (Pool, Pools, Backend, Backends)):
            raise UsageError("the loops of the lab want a Pool, Pools, a Backend or Backends")
        self.keep = pool
        self.n = len(pool) if isinstance(pool, (Pools, Backends)) else 1
        self.pools = cython.cast(cython.pointer(cython.p_void),
                                 calloc(self.n, cython.sizeof(cython.p_void)))
        if self.pools == cython.NULL:
            raise MemoryError("no memory for the pools")
        if isinstance(pool, Backends):
            several = pool
            one = several.pools[0]
            self.ops = one.ops
            for i in range(self.n):
                self.pools[i] = several.c[i]
            return
        if isinstance(pool, Backend):
            one = pool
            self.ops = one.ops
            self.pools[0] = one.c
            return
        self.ops.malloc = _malloc
        self.ops.write = _write
        self.ops.free = _free
        self.ops.read_begin = _read_begin
        self.ops.read_end = _read_end
        self.ops.can_compact = _can_compact
        self.ops.compact = _compact
        if isinstance(pool, Pools):
            many = pool
            for i in range(self.n):
                self.pools[i] = many.c[i]
        else:
            single = pool
            self.pools[0] = single.c

    def __dealloc__(self):
        free(self.pools)
