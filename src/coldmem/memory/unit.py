"""The lock of a unit: a bit of its word, held for one compression, one read from disk or one system
call; longer only where a store finds the pool full and writes some of it back.

Guarantees: a holder waits for no other unit of a lower address and for no thread that faults, so
waiting ends. Takes no other lock.
"""

import cython
from cython.cimports.coldmem.linux.atomic import cpu_relax, futex_wait, sched_yield
from cython.cimports.coldmem.memory.state import count
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t

SPINS = cython.declare(uint32_t, 500)
YIELDS = cython.declare(uint32_t, 520)
NAP_NS = cython.declare(cython.longlong, 20_000)


def unit_lock(m, unit, counts):
    w: uint64_t
    tries: uint32_t = 0
    never: int32_t = 0
    while True:
        w = a64_load_acq(cython.address(m.words[unit]))
        if unit_trylock(m, unit, w):
            return w
        if w & LOCK == 0:
            continue
        tries += 1
        if tries == 1:
            count(cython.address(counts.waits), 1)
        if tries < SPINS:
            cpu_relax()
        elif tries < YIELDS:
            sched_yield()
        else:
            futex_wait(cython.address(never), 0, NAP_NS)
