"""Delivery: how a fault reaches us.

SIGBUS: the faulting thread gets a signal and serves itself. It needs no rights and no other thread,
but a system call that meets a missing page fails, since it cannot be interrupted by a handler.
Handler threads: the kernel sends a message and puts the thread to sleep until the page is there. System
calls just work, where the process has the right to serve them.

Owns: the table of memories. While one of them uses SIGBUS, our handler is in front (sigbus.py), and
what is not ours goes to the others.
Guarantees: the signal handler calls nothing that is not safe in a signal handler: no allocator but on a
context's first use (the signal is synchronous: its thread was touching an array, not inside malloc),
no Python, no stdio; it keeps errno. A fault that cannot be served ends the process with a sentence on
stderr: the page is never handed out wrong.
Locks: `_table` for adding and removing; looking up takes none (entries are type-stable).
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_acq,
    a64_load_acq,
    a64_load_rlx,
    a64_store_rel,
    a64_store_rlx,
    fault_was_write,
    keep_errno,
)
from cython.cimports.coldmem.linux.lock import Mutex, mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.userfaultfd import (
    FAULT_WP,
    FAULT_WRITE,
    uffd_copy,
    uffd_poison,
    uffd_read,
    uffd_wake,
)
from cython.cimports.coldmem.memory.fault import fault_serve
from cython.cimports.coldmem.memory.follow import follow_fault, follow_wait
from cython.cimports.coldmem.memory.region import region_bytes
from cython.cimports.coldmem.memory.sigbus import sigbus_give_back, sigbus_pass_on, sigbus_take
from cython.cimports.coldmem.memory.state import (
    FAULT_CLOSED,
    FAULT_FOREIGN,
    FAULT_LOAD,
    FAULT_OK,
    FAULT_TAKEN,
    MemoryP,
)
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import strlen
from cython.cimports.posix.signal import siginfo_t
from cython.cimports.posix.unistd import write

text = cython.typedef(cython.pointer(cython.const[cython.char]))
_low = cython.declare(uint64_t, 0xFFFFFFFFFFFFFFFF)  # all memories that ever were lie between these
_high = cython.declare(uint64_t, 0)
FOREIGN_TIMES = cython.declare(uint32_t, 16)
_memories = cython.declare(uint64_t[64])
# Where each lies: here, since who looks for another may look while one is closed, and made again.
_lows = cython.declare(uint64_t[64])
_highs = cython.declare(uint64_t[64])
_table = cython.declare(Mutex)


def memory_of(address):
    i: uint32_t
    m: MemoryP
    if address < a64_load_rlx(cython.address(_low)) or address >= a64_load_rlx(cython.address(_high)):
        return cython.NULL
    for i in range(MEMORIES_MAX):
        m = cython.cast(MemoryP, a64_load_acq(cython.address(_memories[i])))
        if (m != cython.NULL and address >= a64_load_rlx(cython.address(_lows[i]))
                and address < a64_load_rlx(cython.address(_highs[i]))):
            return m
    return cython.NULL


def explain(result):
    """A sentence on stderr: what became of an access that cannot be served."""
    said: text = b"coldmem: an array could not be served by the kernel (out of memory?)\n"
    if result == FAULT_FOREIGN:
        said = (
            b"coldmem: an address was touched that belongs to no live array: use after free, "
            b"or an overrun\n"
        )
    elif result == FAULT_LOAD:
        said = (
            b"coldmem: data of an array cannot be read back from the swap file: it is damaged, "
            b"or the device failed\n"
        )
    elif result == FAULT_TAKEN:
        said = (
            b"coldmem: data of an array was on disk when this process was forked, and the process that "
            b"it was forked from has used the place again: it believed this one had ended\n"
        )
    elif result == FAULT_CLOSED:
        said = b"coldmem: an array was touched after its Memory was closed\n"
    write(2, said, strlen(said))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _on_sigbus(
    signal: cython.int, info: cython.pointer(siginfo_t), context: cython.p_void
) -> cython.void:
    kept: cython.int = errno
    address: uint64_t = cython.cast(uint64_t, info.si_addr)
    m: MemoryP = memory_of(address)
    result: int32_t
    if m == cython.NULL or not m.sigbus:
        sigbus_pass_on(signal, info, context)
        return
    result = fault_serve(m, address, fault_was_write(context))
    if result != FAULT_OK:
        explain(result)
        sigbus_pass_on(signal, info, context)
    keep_errno(kept)


def deliver_add(m):
    i: uint32_t
    done: cython.int = -1
    base: uint64_t = cython.cast(uint64_t, m.base)
    mutex_lock(cython.address(_table))
    a64_store_rlx(cython.address(_low), min(_low, base))
    a64_store_rlx(cython.address(_high), max(_high, base + region_bytes(m)))
    for i in range(MEMORIES_MAX):
        if _memories[i] == 0:
            a64_store_rlx(cython.address(_lows[i]), base)
            a64_store_rlx(cython.address(_highs[i]), base + region_bytes(m))
            a64_store_rel(cython.address(_memories[i]), cython.cast(uint64_t, m))
            done = 0
            break
    if done == 0 and m.sigbus:
        install()
    mutex_unlock(cython.address(_table))
    return done


def install():
    return sigbus_take(_on_sigbus)


def deliver_lock():
    mutex_lock(cython.address(_table))


def deliver_unlock():
    mutex_unlock(cython.address(_table))


def deliver_memory(i):
    return cython.cast(MemoryP, _memories[i])


def deliver_remove(m):
    i: uint32_t
    left: uint32_t = 0
    mutex_lock(cython.address(_table))
    for i in range(MEMORIES_MAX):
        if _memories[i] == cython.cast(uint64_t, m):
            a64_store_rel(cython.address(_memories[i]), 0)
        elif _memories[i] and cython.cast(MemoryP, _memories[i]).sigbus:
            left += 1
    if left == 0:
        sigbus_give_back()
    mutex_unlock(cython.address(_table))


def handler_loop(m, cpu):
    address: uint64_t = 0
    flags: uint64_t = 0
    thread: uint32_t = 0
    served: uint32_t = 0
    got: cython.int
    result: int32_t
    strange: uint64_t = 0
    times: uint32_t = 0
    end: uint64_t = cython.cast(uint64_t, m.base) + (m.units_max << m.unit_shift)
    while True:
        follow_wait(m, cpu)
        got = uffd_read(
            m.fd, cython.address(address), cython.address(flags), cython.address(thread)
        )
        if got < 0:
            return
        if got == 0:
            continue
        if address >= end:
            uffd_copy(m.fd, cython.cast(cython.p_void, address & ~cython.cast(uint64_t, 4095)),
                      m.zeros, 4096, False)
            if a32_load_acq(cython.address(m.stop)):
                return
            continue
        result = fault_serve(m, address, 1 if flags & (FAULT_WRITE | FAULT_WP) else 0)
        follow_fault(m, thread, cython.address(served))
        if result == FAULT_FOREIGN:
            # The message may be old: another thread's readahead has served it meanwhile, and the array
            # is freed. A thread that really touches what is not ours does it again once woken.
            times = times + 1 if address == strange else 1
            strange = address
            if times < FOREIGN_TIMES:
                uffd_wake(m.fd, cython.cast(cython.p_void, address & ~(m.unit_bytes - 1)), m.unit_bytes)
                continue
        if result != FAULT_OK:
            explain(result)
            uffd_poison(m.fd, cython.cast(cython.p_void, address & ~(m.unit_bytes - 1)), m.unit_bytes)


def reinstall() -> bool:
    """Take SIGBUS again, after somebody has taken it from us by a way around us. False: it was ours."""
    taken: cython.int
    with cython.nogil:
        mutex_lock(cython.address(_table))
        taken = install()
        mutex_unlock(cython.address(_table))
    return taken != 0
