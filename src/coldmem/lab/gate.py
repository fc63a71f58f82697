"""The start gate of the native worker loops, and percentiles of their histograms.

Owns: one `GateC`. Guarantees: nobody runs before `open`; `close` is seen by every worker within one
round of its loop. Takes no locks: the three words are atomic, waiting is a futex.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add,
    a32_load,
    a32_load_acq,
    a32_store,
    futex_wait,
    futex_wake,
)
from cython.cimports.libc.string import memset


def gate_arrive(g):
    a32_fetch_add(cython.address(g.arrived), 1)


def gate_wait(g):
    gate_arrive(g)
    while a32_load_acq(cython.address(g.go)) == 0:
        futex_wait(cython.address(g.go), 0, -1)


class Gate:
    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(GateC))

    def arrived(self):
        """How many workers stand at the gate, or went through it."""
        return a32_load(cython.address(self.c.arrived))

    def open(self):
        """Let them run."""
        a32_store(cython.address(self.c.go), 1)
        futex_wake(cython.address(self.c.go), 0x7FFFFFFF)

    def close(self):
        """Tell them to stop; also lets go whoever still waits."""
        a32_store(cython.address(self.c.stop), 1)
        self.open()


def bucket_value_ns(bucket):
    """The largest time in nanoseconds that falls into `bucket`."""
    if bucket < 16:
        return bucket
    octave, step = bucket // 16 + 3, bucket % 16
    return (1 << octave) + ((step + 1) << (octave - 4)) - 1


def percentile_ns(counts, share):
    """The time below which `share` (0..1) of the counted calls lie; None when there are none."""
    total = sum(counts)
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if count and seen >= share * total:
            return bucket_value_ns(bucket)
    return None
