"""The shrinker thread.

It sleeps until a store finds the pool at its limit (or, where stores write back themselves, near
it), then brings the pool under the accept threshold: by compaction where that frees enough, else by
writing back batch after batch, group after group in turn from where it stopped last. Groups with
nothing in RAM or with writeback off cost it nothing. Sixteen batches in which nothing could be
written end a round.

Owns: `ZswapC.shrinker`, the futex it sleeps on, and `shrinker_runs`.
Guarantees: it holds a context for one batch at a time, so it delays neither close nor a change of
codec by more than that; it never spins: after a round that failed it rests for a while, however
often it is woken.
Locks: none while it sleeps.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_load_acq,
    a32_store_rel,
    a32_store_rlx,
    a32_xchg,
    a64_fetch_add_rlx,
    a64_load_rlx,
    futex_wait,
    futex_wake,
)
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.reclaim import reclaim_compact, reclaim_next
from cython.cimports.coldmem.zswap.state import SHRINKER_STOP, WorkContextP
from cython.cimports.libc.stdint import int32_t

FAILURES_MAX = cython.declare(cython.int, 16)
SCAN = cython.declare(cython.uint, 8192)  # units passed over for one batch at most
REST_NS = cython.declare(cython.longlong, 10_000_000)


def shrinker_stopping(z):
    return a32_load_acq(cython.address(z.shrinker)) == SHRINKER_STOP


def shrinker_loop(z):
    while not shrinker_stopping(z):
        if a32_load_acq(cython.address(z.shrinker)) == SHRINKER_IDLE:
            futex_wait(cython.address(z.shrinker), SHRINKER_IDLE, -1)
        elif a32_cas(cython.address(z.shrinker), SHRINKER_WOKEN, SHRINKER_IDLE):
            shrinker_round(z)
    a32_store_rel(cython.address(z.shrinker_runs), 0)
    futex_wake(cython.address(z.shrinker_runs), 0x7FFFFFFF)


def shrinker_round(z):
    w: WorkContextP
    failures: cython.int = 0
    written: int32_t = 0
    compact: cython.bint = True
    a64_fetch_add_rlx(cython.address(z.events.shrinker_wakeups), 1)
    while failures < FAILURES_MAX and not shrinker_stopping(z):
        if a64_load_rlx(cython.address(z.budget.used_bytes)) <= z.accept_bytes:
            a32_store_rlx(cython.address(z.full), 0)
            return
        w = context_get(z)
        if w == cython.NULL:
            return
        if compact and reclaim_compact(z) > 0:
            context_put(z, w)
            continue
        # Compaction pays again once writeback has made holes.
        compact = not compact
        written = reclaim_next(z, SCAN, w) if z.swap != cython.NULL else -1
        context_put(z, w)
        if written < 0:
            break
        if written == 0:
            failures += 1
    # Nothing helps for now. Do not burn a core for every store that is refused.
    futex_wait(cython.address(z.never), 0, REST_NS)


def shrinker_stop(z):
    runs: int32_t
    a32_xchg(cython.address(z.shrinker), SHRINKER_STOP)
    futex_wake(cython.address(z.shrinker), 0x7FFFFFFF)
    while True:
        runs = a32_load_acq(cython.address(z.shrinker_runs))
        if runs == 0:
            return
        futex_wait(cython.address(z.shrinker_runs), runs, -1)
