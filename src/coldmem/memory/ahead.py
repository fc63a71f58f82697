"""Readahead by a thread of its own, so that decompression of a stream uses a second CPU.

The thread that reads says where its stream goes on; this one loads from there, up to a bound beyond the
last question. It takes what is not there and no room that is not free: the reclaimer makes room. Where
the machine has one CPU it is not started.

Locks: unit locks, as a fault; `MemoryC.ahead` is one word, the last question wins.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_load_acq,
    a32_store,
    a32_store_rel,
    a64_load,
    a64_load_rlx,
    futex_wait,
    futex_wake,
)
from cython.cimports.coldmem.memory.fault import bring_in
from cython.cimports.coldmem.memory.limit import footprint
from cython.cimports.coldmem.memory.state import AHEAD_ASLEEP, AHEAD_AWAKE, AHEAD_BYTES, MemoryP
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.state import WorkContextP
from cython.cimports.libc.stdint import uint32_t, uint64_t

STEP_BYTES = cython.declare(uint64_t, 1 << 16)  # held for as long as that takes to decompress
LOOKS = cython.declare(uint32_t, 200)  # naps without a question before it sleeps for good
NAP_NS = cython.declare(cython.longlong, 50_000)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _load(m: MemoryP, first: uint64_t, n: uint64_t) -> cython.bint:
    """False: there was no room for all of it."""
    w: WorkContextP = context_get(m.z)
    if w == cython.NULL:
        return True
    bring_in(m, first, n, 0, w)
    context_put(m.z, w)
    return footprint(m) + (n << m.unit_shift) <= m.hard_bytes


def ahead_loop(m):
    asked: uint64_t = 0
    last: uint64_t = 0
    at: uint64_t = 0
    end: uint64_t = 0
    idle: uint32_t = 0
    far: uint64_t = AHEAD_BYTES >> m.unit_shift
    step: uint64_t = max(STEP_BYTES >> m.unit_shift, 1)
    while not a32_load_acq(cython.address(m.stop)):
        asked = a64_load_rlx(cython.address(m.ahead))
        if asked != last:
            last = asked
            idle = 0
            if at < asked or at > asked + 2 * far:
                at = asked  # another stream, or it has overtaken us
            end = min(asked + far, a64_load_rlx(cython.address(m.span.end)))
        if at < end:
            if _load(m, at, min(step, end - at)):
                at += step
                idle = 0
                continue
        idle += 1
        if idle < LOOKS:
            futex_wait(cython.address(m.stop), 0, NAP_NS)
            continue
        a32_store(cython.address(m.ahead_state), AHEAD_ASLEEP)
        if a64_load(cython.address(m.ahead)) == last:
            futex_wait(cython.address(m.ahead_state), AHEAD_ASLEEP, -1)
        a32_cas(cython.address(m.ahead_state), AHEAD_ASLEEP, AHEAD_AWAKE)
        idle = 0
    a32_store_rel(cython.address(m.ahead_runs), 0)
    futex_wake(cython.address(m.ahead_runs), 0x7FFFFFFF)


def ahead_stop(m):
    """With m.stop set."""
    a32_store(cython.address(m.ahead_state), AHEAD_AWAKE)
    futex_wake(cython.address(m.ahead_state), 0x7FFFFFFF)
    while a32_load_acq(cython.address(m.ahead_runs)):
        futex_wait(cython.address(m.ahead_runs), 1, NAP_NS)
