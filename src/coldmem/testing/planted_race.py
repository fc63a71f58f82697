"""A data race, planted: the canary of the ThreadSanitizer run.

Guarantees: two threads in `PlantedRace.run` race on one plain counter. `make tsan` fails unless the
sanitizer reports it, since a sanitizer that sees nothing would also find nothing elsewhere.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_rlx
from cython.cimports.libc.stdint import uint64_t


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
