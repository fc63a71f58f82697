"""Batches: what a Python call per unit would cost more than the unit is worth.

Locks: the context of the caller, kept for the whole batch; shard locks one after the other.
"""

from cython.cimports.coldmem.zswap.load import zswap_invalidate, zswap_load
from cython.cimports.coldmem.zswap.state import ZW_OK
from cython.cimports.coldmem.zswap.store import zswap_store
from cython.cimports.libc.stdint import int32_t, uint64_t


def batch_store(z, s, src, group, failed, w):
    i: uint64_t
    error: int32_t
    for i in range(s.n):
        error = zswap_store(z, slot_at(s, i), src + i * z.unit_bytes, group, w)
        if error != ZW_OK:
            failed[0] = slot_at(s, i)
            # Like a large folio: a part of it would be of no use, and stale units would do harm.
            batch_invalidate(z, s, w)
            return error
    return ZW_OK


def batch_load(z, s, out, exclusive, result, w):
    i: uint64_t
    bad: uint64_t = 0
    for i in range(s.n):
        result[i] = zswap_load(z, slot_at(s, i), out + i * z.unit_bytes, exclusive, w)
        bad += result[i] < 0
    return bad


def batch_invalidate(z, s, w):
    i: uint64_t
    n: uint64_t = 0
    for i in range(s.n):
        n += zswap_invalidate(z, slot_at(s, i), w)
    return n
