"""Which handler threads wait for faults: where one thread faults alone, only the one on its CPU.

A fault wakes every thread that waits for messages of the userfaultfd. The handler on the CPU of the
faulting thread takes over by a switch; waking the others costs an interrupt each, and one of them may
be first, so that the faulting thread is then woken from afar. So each 16th fault a handler asks the
kernel where the thread that faulted runs. When it is the same thread some times in a row, the other
handlers stop waiting, until another thread faults or it has moved.

Guarantees: at least one handler waits at any time, so every fault is served; which one it is costs time,
nothing else.
Locks: none; `MemoryC.readers` is a word of bits, one for each CPU, and `readers_turn` the futex that
changes with it.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_fetch_add_rel,
    a32_load_acq,
    a32_load_rlx,
    a32_store_rlx,
    a64_load_acq,
    a64_load_rlx,
    a64_store_rel,
    futex_wait,
    futex_wake,
)
from cython.cimports.coldmem.linux.task import task_cpu
from cython.cimports.coldmem.memory.state import MemoryP
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t

EVERY = cython.declare(uint32_t, 16)  # faults
SAME = cython.declare(int32_t, 4)  # looks that must agree
LOOK_NS = cython.declare(cython.longlong, 200_000_000)  # a lost wake costs no more than this
CPUS = cython.declare(cython.int, 64)
ALL = cython.declare(int32_t, 0x7FFFFFFF)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _let(m: MemoryP, readers: uint64_t) -> cython.void:
    if a64_load_rlx(cython.address(m.readers)) != readers:
        a64_store_rel(cython.address(m.readers), readers)
        a32_fetch_add_rel(cython.address(m.readers_turn), 1)
        futex_wake(cython.address(m.readers_turn), ALL)


def follow_begin(m, handlers):
    m.handlers = handlers
    a32_store_rlx(cython.address(m.faulter_same), 0)
    a64_store_rel(cython.address(m.readers), handlers)


def follow_wait(m, cpu):
    turn: int32_t
    while True:
        turn = a32_load_acq(cython.address(m.readers_turn))
        if a64_load_acq(cython.address(m.readers)) >> cpu & 1 or a32_load_acq(cython.address(m.stop)):
            return
        futex_wait(cython.address(m.readers_turn), turn, LOOK_NS)


def follow_fault(m, thread, served):
    cpu: cython.int
    number: int32_t = cython.cast(int32_t, thread)
    if number != a32_load_rlx(cython.address(m.faulter)):
        a32_store_rlx(cython.address(m.faulter), number)
        a32_store_rlx(cython.address(m.faulter_same), 0)
        _let(m, m.handlers)
        return
    served[0] += 1
    if served[0] % EVERY:
        return
    cpu = task_cpu(number)
    if cpu < 0 or cpu >= CPUS or (m.handlers >> cpu) & 1 == 0:
        _let(m, m.handlers)
    elif a32_load_rlx(cython.address(m.faulter_same)) < SAME:
        a32_fetch_add_rel(cython.address(m.faulter_same), 1)
    else:
        _let(m, cython.cast(uint64_t, 1) << cpu)


def follow_end(m):
    a32_fetch_add_rel(cython.address(m.readers_turn), 1)
    futex_wake(cython.address(m.readers_turn), ALL)
