"""`Device`: a block device made of the units of a Zswap, as Python sees it.

Owns: the locks, the counters and the recorders that block.py works with; keeps the Zswap alive.
Guarantees: as block.py; the GIL is released from first to last. Locks: see the head of block.pxd.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_rlx, now_ns
from cython.cimports.coldmem.linux.lock import Mutex, MutexP, mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.nbd.block import (
    N_COMMANDS,
    N_CONNECTIONS,
    N_EIO,
    N_ENOSPC,
    N_ERRORS,
    N_READ_BYTES,
    N_TRIMMED_BYTES,
    N_WRITTEN_BYTES,
    STRIPES,
    BytesP,
    Span,
    Spans,
    device_read,
    device_status,
    device_trim,
    device_write,
    device_zero,
    worker_destroy,
    worker_init,
)
from cython.cimports.coldmem.nbd.record import ChunkP, Record, RecorderP, recorder_free
from cython.cimports.coldmem.zswap.zswap import Zswap
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.errno import EIO, ENOMEM, ENOSPC, ESHUTDOWN
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset

from coldmem.errors import (
    ClosedError,
    EnvironmentFailure,
    MemoryLimitError,
    SwapFileError,
    UsageError,
)
from coldmem.nbd import protocol

UNITS_MAX = 1 << 32  # the slot of a record has 32 bits


# no_gc_clear: a recorder may be freed with the device only, which its threads keep alive.
@cython.no_gc_clear
@cython.cclass
class Device:
    """A block device of `size_bytes` in `zswap`.

    Parameters
    ----------
    zswap : Zswap
        Where the units are; one slot each, from 0. Nobody else may use it.
    size_bytes : int
        Of the device: 1 to 2**44, and not more than 2**32 units.
    record : bool, default False
        Keep a record of stores, loads and trims, for `trace`.

    Raises
    ------
    UsageError
        The size does not fit, or the Zswap is closed.

    Notes
    -----
    The methods for data are for inspection and tests: a server calls the C functions.
    """

    def __cinit__(self):
        memset(cython.address(self.c), 0, cython.sizeof(DeviceC))

    def __init__(self, zswap, size_bytes, record=False):
        inner: Zswap = zswap
        i: uint32_t
        if self.zswap is not None:
            raise UsageError("a Device cannot be initialised twice")
        if inner.closed:
            raise ClosedError("this Zswap is closed")
        if not 1 <= size_bytes <= min(protocol.SIZE_BYTES_MAX, UNITS_MAX * inner.unit_bytes):
            most = min(protocol.SIZE_BYTES_MAX, UNITS_MAX * inner.unit_bytes)
            raise UsageError(
                f"a device of {size_bytes} bytes: with units of {inner.unit_bytes} bytes choose 1 to "
                f"{most}"
            )
        self.c.stripes = cython.cast(MutexP, calloc(STRIPES, cython.sizeof(Mutex)))
        if self.c.stripes == cython.NULL:
            raise MemoryError("no memory for the locks of a device")
        for i in range(STRIPES):
            mutex_init(self.c.stripes + i, False)
        mutex_init(cython.address(self.c.recorders_lock), False)
        self.c.zswap = inner.c
        self.c.size_bytes = size_bytes
        self.c.unit_bytes = inner.unit_bytes
        self.c.unit_shift = inner.unit_bytes.bit_length() - 1
        self.c.recording = bool(record)
        self.c.start_ns = now_ns()
        self.zswap = zswap

    def __dealloc__(self):
        r: RecorderP = self.c.recorders
        following: RecorderP
        while r != cython.NULL:
            following = r.next
            recorder_free(r)
            r = following
        free(self.c.stripes)

    @property
    def size_bytes(self):
        """Bytes of the device."""
        return self.c.size_bytes

    @property
    def unit_bytes(self):
        """Bytes of a unit."""
        return self.c.unit_bytes

    def _begin(self, w, offset, nbytes):
        """A worker for one call on a range that lies within the device."""
        if self.zswap is None:
            raise ClosedError("this Device was never initialised")
        if nbytes < 1 or nbytes > 0xFFFFFFFF or offset < 0 or offset + nbytes > self.c.size_bytes:
            raise UsageError(
                f"bytes {offset} to {offset + nbytes} are not a part of the {self.c.size_bytes} bytes "
                "of the device, of at most 4 GiB less one byte"
            )
        if worker_init(w, cython.address(self.c)) != 0:
            raise MemoryError("no memory for a buffer")
        return 0

    def _check(self, error, what, offset):
        if error == 0:
            return
        if error == ESHUTDOWN:
            raise ClosedError("the Zswap of this device is closed")
        if error == ENOSPC:
            raise MemoryLimitError(f"no room for {what} at {offset}: raise memory_max or swap_max")
        if error == ENOMEM:
            raise EnvironmentFailure(f"no memory for {what} at {offset}")
        raise SwapFileError(f"{what} at {offset} failed: the swap file or the codec", errno=EIO)

    def read(self, offset, nbytes):
        """The `nbytes` from `offset` on, as bytes."""
        w: Worker
        n: uint32_t
        at: uint64_t
        bad: uint64_t = 0
        error: int32_t
        self._begin(cython.address(w), offset, nbytes)
        n = nbytes
        at = offset
        try:
            out = PyBytes_FromStringAndSize(cython.NULL, nbytes)
            to: cython.p_uchar = cython.cast(cython.p_uchar, PyBytes_AS_STRING(out))
            with cython.nogil:
                error = device_read(cython.address(w), at, n, to, cython.NULL, cython.address(bad))
        finally:
            worker_destroy(cython.address(w))
        self._check(error, "a read", bad)
        return out

    def write(self, offset, data):
        """Put the bytes of `data` at `offset`."""
        w: Worker
        view: cython.Py_buffer
        n: uint32_t
        at: uint64_t
        error: int32_t
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            self._begin(cython.address(w), offset, view.len)
            n = cython.cast(uint32_t, view.len)
            at = offset
            with cython.nogil:
                error = device_write(cython.address(w), at, n, cython.cast(BytesP, view.buf))
            worker_destroy(cython.address(w))
        finally:
            PyBuffer_Release(cython.address(view))
        self._check(error, "a write", offset)

    def zero(self, offset, nbytes, allocate=False):
        """Make `nbytes` from `offset` on zero: holes, or with `allocate` stored zeroes."""
        w: Worker
        error: int32_t
        keep: cython.bint = allocate
        self._begin(cython.address(w), offset, nbytes)
        n: uint32_t = nbytes
        at: uint64_t = offset
        with cython.nogil:
            error = device_zero(cython.address(w), at, n, keep)
        worker_destroy(cython.address(w))
        self._check(error, "zeroes", offset)

    def trim(self, offset, nbytes):
        """Forget the whole units within `nbytes` from `offset` on."""
        w: Worker
        error: int32_t
        self._begin(cython.address(w), offset, nbytes)
        n: uint32_t = nbytes
        at: uint64_t = offset
        with cython.nogil:
            error = device_trim(cython.address(w), at, n)
        worker_destroy(cython.address(w))
        self._check(error, "a trim", offset)

    def status(self, offset, nbytes):
        """(start, length, state) of runs from `offset` on, to the end of the `nbytes`.

        The state is 0 for data, else bits: 1 for a hole, 2 for zeroes.
        """
        w: Worker
        spans: Spans
        items: Span[64]
        error: int32_t
        i: uint32_t
        n: uint32_t
        at: uint64_t
        found: list = []
        before = None
        self._begin(cython.address(w), offset, nbytes)
        end = offset + nbytes
        while offset < end:
            n = end - offset
            at = offset
            spans.items = items
            spans.count = 0
            spans.max = 64
            with cython.nogil:
                error = device_status(cython.address(w), at, n, cython.address(spans))
            if error:
                break
            for i in range(spans.count):
                run = (offset + items[i].start, items[i].length, items[i].state)
                if found and before[2] == run[2]:
                    found.pop()
                    run = (before[0], before[1] + run[1], run[2])
                found.append(run)
                before = run
            offset = offset + items[spans.count - 1].start + items[spans.count - 1].length
        worker_destroy(cython.address(w))
        self._check(error, "the status", offset)
        return found

    def counts(self):
        """Requests by command, bytes and failures, as a dict; each is exact."""
        c: cython.pointer(uint64_t) = self.c.counts
        i: cython.int
        found = {}
        for i in range(len(protocol.COMMANDS)):
            found[protocol.COMMANDS[i]] = a64_load_rlx(c + N_COMMANDS + i)
        return {
            "connections": a64_load_rlx(c + N_CONNECTIONS),
            "requests": found,
            "read_bytes": a64_load_rlx(c + N_READ_BYTES),
            "written_bytes": a64_load_rlx(c + N_WRITTEN_BYTES),
            "trimmed_bytes": a64_load_rlx(c + N_TRIMMED_BYTES),
            "no_room": a64_load_rlx(c + N_ENOSPC),
            "io_errors": a64_load_rlx(c + N_EIO),
            "refused": a64_load_rlx(c + N_ERRORS),
        }

    def records(self):
        """(thread, chunk of records as bytes) of every thread that has ended, and how many were lost.

        A record has 16 bytes, in the machine's order: time_ns (8), slot (4), operation << 24 | bytes
        (4).
        """
        r: RecorderP
        c: ChunkP
        found: list = []
        dropped = 0
        with cython.nogil:
            mutex_lock(cython.address(self.c.recorders_lock))
            r = self.c.recorders
            mutex_unlock(cython.address(self.c.recorders_lock))
        while r != cython.NULL:
            dropped += r.dropped
            c = r.first
            while c != cython.NULL:
                found.append((r.thread, PyBytes_FromStringAndSize(
                    cython.cast(cython.p_char, c.records), c.used * cython.sizeof(Record))))
                c = c.next
            r = r.next
        return found, dropped
