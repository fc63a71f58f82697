"""Faults that are planted: the canaries of the sanitizer runs.

Guarantees: two threads in `PlantedRace.run` race on one plain counter, and `read_past_end` reads
one byte behind an allocation. `make tsan` and `make asan` fail unless the sanitizer reports them:
one that sees nothing here would find nothing elsewhere.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_rlx
from cython.cimports.libc.stdint import uint8_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free


def race_work(race, rounds):
    i: uint64_t
    for i in range(rounds):
        # an atomic load, so that the compiler keeps the loop; the store is plain: the race
        race.unguarded = a64_load_rlx(cython.address(race.unguarded)) + 1


@cython.cclass
class PlantedRace:
    """One counter without a lock. Only for checking that a race detector detects."""

    def run(self, rounds):
        """Add 1, `rounds` times."""
        r: uint64_t = rounds
        with cython.nogil:
            race_work(self, r)

    def value(self):
        """What the counter says now; less than was added where updates were lost."""
        return self.unguarded


def read_past_end(n):
    """Byte `n` of an allocation of `n` bytes. Never call it without a sanitizer."""
    size: uint64_t = n
    data: BytesP = cython.cast(BytesP, calloc(size, 1))
    if data == cython.NULL:
        raise MemoryError
    value: uint8_t = data[size]
    free(data)
    return value
