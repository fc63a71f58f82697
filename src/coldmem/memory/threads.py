"""The threads of a Memory: reclaimer, readahead, recompressor, fault handlers.

Each runs one loop without the GIL until the Memory stops. It knows the C side alone, so a running
thread does not keep the Memory alive: dropping the Memory stops its threads.
"""

import os
import threading

import cython
from cython.cimports.coldmem.memory.ahead import ahead_loop
from cython.cimports.coldmem.memory.cool import cool_loop
from cython.cimports.coldmem.memory.deliver import handler_loop
from cython.cimports.coldmem.memory.manager import Manager
from cython.cimports.coldmem.memory.reclaim import reclaimer_loop

RECLAIM = -1  # in place of a CPU: what the thread is for
READ_AHEAD = -2
RECOMPRESS = -3


class Runner:
    """One loop of a Memory."""

    def run(self):
        """What the thread does."""
        if self.cpu >= 0:
            os.sched_setaffinity(threading.get_native_id(), {self.cpu})
            with cython.nogil:
                handler_loop(self.c, self.cpu & 63)
        elif self.cpu == READ_AHEAD:
            with cython.nogil:
                ahead_loop(self.c)
        elif self.cpu == RECOMPRESS:
            with cython.nogil:
                cool_loop(self.c)
        else:
            with cython.nogil:
                reclaimer_loop(self.c)


def start_thread(manager, name, cpu):
    """Start the loop that `cpu` stands for: a CPU's number for a fault handler, or one of the above."""
    owner: Manager = manager
    runner: Runner = Runner.__new__(Runner)
    runner.c = owner.c
    runner.cpu = cpu
    thread = threading.Thread(target=runner.run, name=name, daemon=True)
    thread.start()
    return thread
