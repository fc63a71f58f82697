"""Forks by C code while native threads take and give back runs, as NumPy's hook does.

Owns: one `Spares` of a Memory, as a whole program's hook has it.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a32_load_acq, a32_store_rel, a64_load_rlx
from cython.cimports.coldmem.linux.plt import plt_modules
from cython.cimports.coldmem.memory.manager import Manager, manager_alloc
from cython.cimports.coldmem.memory.region import region_free
from cython.cimports.coldmem.memory.spare import (
    Spares,
    SparesP,
    spare_begin,
    spare_drop,
    spare_put,
    spare_take,
)
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.stdlib import calloc
from cython.cimports.posix.unistd import _exit, alarm, fork
from cython.cimports.posix.wait import waitpid

SECONDS = cython.declare(cython.uint, 20)  # then a child that waits for somebody is ended


class SpareStress:
    """Runs of `nbytes` that come and go.

    Parameters
    ----------
    memory : Memory
        With room for a run of each thread, and no need to take anything out.
    nbytes : int
    kept : bool
        Whether runs of this size are small enough to be kept.
    """

    def __init__(self, memory, nbytes, kept=True):
        owner: Manager = memory
        if self.s == cython.NULL:
            self.s = cython.cast(SparesP, calloc(1, cython.sizeof(Spares)))
            if self.s == cython.NULL:
                raise MemoryError
            spare_begin(self.s)
        self.m = owner.c
        self.promise = owner.promise
        self.nbytes = nbytes
        self.kept = kept
        self.keep = memory

    def _turn(self):
        """One run: 1 where it was one that had been kept, or none is."""
        found: uint64_t = 1
        p: cython.p_void = spare_take(self.m, self.s, self.nbytes)
        if p == cython.NULL:
            found = 0
            p = manager_alloc(self.m, self.promise, self.nbytes)
        if p == cython.NULL:
            return 0
        cython.cast(cython.p_uchar, p)[0] = 1
        if not spare_put(self.m, self.s, p):
            region_free(self.m, p)
        return found or not self.kept

    def hammer(self):
        """Until `stop`; how often a run came that should."""
        found: uint64_t = 0
        with cython.nogil:
            while not a32_load_acq(cython.address(self.stop_word)):
                found += self._turn()
        return found

    def watch(self):
        """Until `stop`, look for modules, as each allocation does where faults are signals."""
        with cython.nogil:
            while not a32_load_acq(cython.address(self.stop_word)):
                plt_modules()

    def stop(self):
        """End `hammer` in all threads."""
        a32_store_rel(cython.address(self.stop_word), 1)

    def _child(self):
        plt_modules()
        if a64_load_rlx(cython.address(self.s.bytes)) == 0:
            self._turn()
        return 0 if self._turn() else 1

    def fork(self):
        """Fork without Python's lock. The child's wait status: 256 where it cannot keep runs."""
        pid: cython.int
        status: cython.int = 0
        with cython.nogil:
            pid = fork()
            if pid == 0:
                alarm(SECONDS)
                _exit(self._child())
            if pid > 0:
                waitpid(pid, cython.address(status), 0)
        if pid < 0:
            raise OSError("fork")
        return status

    def drop(self):
        """Give back what is kept."""
        with cython.nogil:
            spare_drop(self.m, self.s)
