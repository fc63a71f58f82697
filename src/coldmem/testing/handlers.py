"""Which handler threads of a Memory wait for faults, for tests. Owns nothing; reads two atomics."""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_acq
from cython.cimports.coldmem.memory.manager import Manager


def waiting(memory):
    """CPUs whose handler waits, and all CPUs that have one, as words of bits."""
    owner: Manager = memory
    return a64_load_acq(cython.address(owner.c.readers)), owner.c.handlers
