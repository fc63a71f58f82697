"""The account of a Memory: hot pages, compressed data and metadata together against `memory_max`.

Guarantees: `charge` counts first and looks then, so of several threads at the limit none passes it;
what compression adds while a batch is on its way out is what `hard_bytes` leaves free.
Locks: none; sums of atomics.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_load_rlx,
    a64_cas,
    a64_fetch_add_rlx,
    a64_load_rlx,
    futex_wake,
)
from cython.cimports.coldmem.memory.state import RECLAIMER_IDLE, RECLAIMER_WOKEN
from cython.cimports.coldmem.zsmalloc.core import Handle, PoolP
from cython.cimports.coldmem.zswap.state import Entry
from cython.cimports.libc.stdint import uint64_t


def metadata_bytes(m):
    p: PoolP = m.z.pools[0]
    return (
        m.fixed_bytes
        + a64_load_rlx(cython.address(m.z.entries_next)) * cython.sizeof(Entry)
        + a64_load_rlx(cython.address(m.z.index_bytes))
        + a64_load_rlx(cython.address(p.handles_next)) * cython.sizeof(Handle)
        + a64_load_rlx(cython.address(m.span.end)) * cython.sizeof(uint64_t)
    )


def footprint(m):
    return (
        a64_load_rlx(cython.address(m.hot_bytes))
        + a64_load_rlx(cython.address(m.z.budget.used_bytes))
        + a64_load_rlx(cython.address(m.z.budget.dirty_bytes))
        + metadata_bytes(m)
    )


def charge_always(m, nbytes):
    total: uint64_t
    peak: uint64_t
    a64_fetch_add_rlx(cython.address(m.hot_bytes), nbytes)
    total = footprint(m)
    peak = a64_load_rlx(cython.address(m.peak_bytes))
    while total > peak and not a64_cas(cython.address(m.peak_bytes), peak, total):
        peak = a64_load_rlx(cython.address(m.peak_bytes))
    if total > m.low_bytes and a32_load_rlx(cython.address(m.reclaimer)) == RECLAIMER_IDLE:
        reclaimer_wake(m)


def charge(m, nbytes):
    total: uint64_t
    peak: uint64_t
    a64_fetch_add_rlx(cython.address(m.hot_bytes), nbytes)
    total = footprint(m)
    if total > m.low_bytes and a32_load_rlx(cython.address(m.reclaimer)) == RECLAIMER_IDLE:
        reclaimer_wake(m)
    if total > m.hard_bytes:
        uncharge(m, nbytes)
        return False
    peak = a64_load_rlx(cython.address(m.peak_bytes))
    while total > peak and not a64_cas(cython.address(m.peak_bytes), peak, total):
        peak = a64_load_rlx(cython.address(m.peak_bytes))
    return True


def uncharge(m, nbytes):
    a64_fetch_add_rlx(cython.address(m.hot_bytes), -nbytes)


def reclaimer_wake(m):
    if a32_cas(cython.address(m.reclaimer), RECLAIMER_IDLE, RECLAIMER_WOKEN):
        futex_wake(cython.address(m.reclaimer), 1)
