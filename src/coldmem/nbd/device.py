"""A block device made of the units of a Zswap: any range of bytes, from any thread.

Owns: the stripes of locks, the counters, the recorders; keeps the Zswap alive.
Guarantees: what was never written, or was trimmed, reads as zeroes and takes no room; a unit of
zeroes that is written becomes such a hole. Two writes to different bytes of one unit both survive,
for whoever changes a unit holds its stripe. A write that fails leaves the bytes of the unit that
failed, and all behind it, as they were: `zswap_replace` keeps the old unit until the new one is in.
A read of one unit sees one version of it, and takes no lock of ours. Units are changed one by one: a
write of several is not one step, as on any disk.
Assumes: nobody else uses the Zswap. Locks: see the head of device.pxd.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a64_fetch_add_rlx,
    a64_load_rlx,
    now_ns,
)
from cython.cimports.coldmem.linux.lock import MutexP, mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.nbd.record import (
    RECORD_LOAD,
    RECORD_STORE,
    RECORD_TRIM,
    ChunkP,
    RecorderP,
    record_add,
    recorder_free,
    recorder_new,
)
from cython.cimports.coldmem.zswap.context import context_get, context_put
from cython.cimports.coldmem.zswap.load import zswap_invalidate, zswap_load, zswap_peek
from cython.cimports.coldmem.zswap.state import (
    ENTRY_FREE,
    ENTRY_SAME,
    GROUP_ROOT,
    ZW_ALLOC,
    ZW_CONTEXT,
    ZW_ENTRIES,
    ZW_FULL,
    ZW_GROUP,
    ZW_NOT_FOUND,
    ZW_OK,
    ZW_POOR,
    WorkContextP,
)
from cython.cimports.coldmem.zswap.store import same_filled, zswap_replace
from cython.cimports.coldmem.zswap.zswap import Zswap
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.errno import EIO, ENOMEM, ENOSPC, ESHUTDOWN
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free, malloc
from cython.cimports.libc.string import memcpy, memset

from coldmem.errors import ClosedError, EnvironmentFailure, MemoryLimitError, SwapFileError, UsageError
from coldmem.nbd import protocol

# What a change does to its bytes.
WRITE = cython.declare(int32_t, 0)
ZERO = cython.declare(int32_t, 1)
ZERO_KEPT = cython.declare(int32_t, 2)  # zeroes that stay allocated
TRIM = cython.declare(int32_t, 3)

STATUS_UNITS_MAX = cython.declare(uint32_t, 1 << 18)  # looked at for one answer
UNITS_MAX = 1 << 32  # the slot of a record has 32 bits


def worker_init(w, d):
    w.device = d
    w.recorder = cython.NULL
    w.unit = cython.cast(cython.p_uchar, malloc(d.unit_bytes))
    if w.unit == cython.NULL:
        return -1
    if d.recording:
        mutex_lock(cython.address(d.recorders_lock))
        w.recorder = recorder_new(
            d.start_ns, d.recorders.thread + 1 if d.recorders != cython.NULL else 0
        )
        if w.recorder != cython.NULL:
            w.recorder.next = d.recorders
            d.recorders = w.recorder
        mutex_unlock(cython.address(d.recorders_lock))
        if w.recorder == cython.NULL:
            worker_destroy(w)
            return -1
    return 0


def worker_destroy(w):
    """Its recorder stays with the device."""
    free(w.unit)
    w.unit = cython.NULL


def errno_of(error):
    if error == ZW_OK:
        return 0
    if error in (ZW_FULL, ZW_ALLOC, ZW_ENTRIES, ZW_GROUP, ZW_POOR):
        return ENOSPC
    return ENOMEM if error == ZW_CONTEXT else EIO


def span_add(spans, start, length, state):
    last: SpanP
    if spans.count > 0:
        last = spans.items + spans.count - 1
        if last.state == state:
            last.length += length
            return
    last = spans.items + spans.count
    last.start = start
    last.length = length
    last.state = state
    spans.count += 1


# -- reading --------------------------------------------------------------------------------------
def read_unit(w, unit, at, n, out, skip_zeroes, x, state):
    d: DeviceP = w.device
    whole: cython.bint = n == d.unit_bytes
    to: cython.p_uchar = out if whole else w.unit
    got: int32_t = zswap_load(d.zswap, unit, to, False, x)
    word: uint64_t
    if got == ZW_NOT_FOUND:
        state[0] = SPAN_HOLE | SPAN_ZERO
        if w.recorder != cython.NULL:
            record_add(w.recorder, RECORD_LOAD, unit, 0)
        if not skip_zeroes:
            memset(out, 0, n)
        return ZW_OK
    if got < 0:
        return got
    if w.recorder != cython.NULL:
        record_add(w.recorder, RECORD_LOAD, unit, x.stored_bytes)
    state[0] = 0
    if x.stored_bytes == 0:
        memcpy(cython.address(word), to, 8)
        if word == 0:
            state[0] = SPAN_ZERO
    if not whole:
        memcpy(out, w.unit + at, n)
    return ZW_OK


def device_read(w, offset, n, out, spans, bad):
    d: DeviceP = w.device
    x: WorkContextP = cython.NULL
    done: uint32_t = 0
    part: uint32_t
    at: uint32_t
    held: uint32_t = 0
    state: uint32_t = 0
    last: uint32_t
    skip: cython.bint
    error: int32_t
    while done < n:
        if x == cython.NULL:
            x = context_get(d.zswap)
            held = 0
            if x == cython.NULL:
                bad[0] = offset + done
                return ESHUTDOWN
        at = cython.cast(uint32_t, (offset + done) & (d.unit_bytes - 1))
        part = min(d.unit_bytes - at, n - done)
        skip = False
        if spans != cython.NULL:
            # The last span is kept for data, which can take up all that follows.
            last = spans.items[spans.count - 1].state if spans.count else 0
            skip = spans.count + 1 < spans.max or last != 0
        error = read_unit(w, (offset + done) >> d.unit_shift, at, part, out + done, skip, x,
                          cython.address(state))
        if error != ZW_OK:
            context_put(d.zswap, x)
            bad[0] = offset + done
            return errno_of(error)
        if spans != cython.NULL:
            span_add(spans, done, part, SPAN_HOLE | SPAN_ZERO if skip and state != 0 else 0)
        done += part
        held += 1
        if held == UNITS_PER_CONTEXT:
            context_put(d.zswap, x)
            x = cython.NULL
    if x != cython.NULL:
        context_put(d.zswap, x)
    a64_fetch_add_rlx(cython.address(d.counts[N_READ_BYTES]), n)
    return 0


def device_status(w, offset, n, spans):
    d: DeviceP = w.device
    x: WorkContextP = context_get(d.zswap)
    done: uint64_t = 0
    part: uint64_t
    seen: uint32_t = 0
    state: uint32_t
    found: uint8_t
    word: uint64_t = 0
    if x == cython.NULL:
        return ESHUTDOWN
    while done < n and seen < STATUS_UNITS_MAX:
        part = min(d.unit_bytes - ((offset + done) & (d.unit_bytes - 1)), n - done)
        found = zswap_peek(d.zswap, (offset + done) >> d.unit_shift, cython.address(word))
        state = 0
        if found == ENTRY_FREE:
            state = SPAN_HOLE | SPAN_ZERO
        elif found == ENTRY_SAME and word == 0:
            state = SPAN_ZERO
        if spans.count == spans.max and spans.items[spans.count - 1].state != state:
            break
        span_add(spans, cython.cast(uint32_t, done), cython.cast(uint32_t, part), state)
        done += part
        seen += 1
    context_put(d.zswap, x)
    return 0


# -- changing: with the stripe of the unit held ---------------------------------------------------
def clear_unit(w, unit, x):
    d: DeviceP = w.device
    if zswap_invalidate(d.zswap, unit, x):
        a64_fetch_add_rlx(cython.address(d.counts[N_TRIMMED_BYTES]), d.unit_bytes)
    if w.recorder != cython.NULL:
        record_add(w.recorder, RECORD_TRIM, unit, 0)
    return ZW_OK


def put_unit(w, unit, data, x):
    d: DeviceP = w.device
    word: uint64_t = 1
    error: int32_t = ZW_OK
    if same_filled(data, d.unit_bytes, cython.address(word)) and word == 0:
        zswap_invalidate(d.zswap, unit, x)
        x.stored_bytes = 0
    else:
        error = zswap_replace(d.zswap, unit, data, GROUP_ROOT, x)
    if error == ZW_OK and w.recorder != cython.NULL:
        record_add(w.recorder, RECORD_STORE, unit, x.stored_bytes)
    return error


def patch_unit(w, unit, at, n, data, x):
    d: DeviceP = w.device
    got: int32_t = zswap_load(d.zswap, unit, w.unit, False, x)
    if got == ZW_NOT_FOUND:
        if data == cython.NULL:
            return ZW_OK
        memset(w.unit, 0, d.unit_bytes)
    elif got < 0:
        return got
    elif w.recorder != cython.NULL:
        record_add(w.recorder, RECORD_LOAD, unit, x.stored_bytes)
    if data == cython.NULL:
        memset(w.unit + at, 0, n)
    else:
        memcpy(w.unit + at, data, n)
    return put_unit(w, unit, w.unit, x)


def change_unit(w, unit, at, n, data, what, x):
    d: DeviceP = w.device
    whole: cython.bint = n == d.unit_bytes
    # To the end of a device that ends within a unit: nothing of the unit is left.
    rest: cython.bint = whole or (at == 0 and (unit << d.unit_shift) + n == d.size_bytes)
    stripe: MutexP = d.stripes + (unit & (STRIPES - 1))
    error: int32_t = ZW_OK
    mutex_lock(stripe)
    if what == WRITE:
        if whole:
            error = put_unit(w, unit, data, x)
        else:
            error = patch_unit(w, unit, at, n, data, x)
    elif what == ZERO_KEPT and rest:
        memset(w.unit, 0, d.unit_bytes)
        error = zswap_replace(d.zswap, unit, w.unit, GROUP_ROOT, x)
        if error == ZW_OK and w.recorder != cython.NULL:
            record_add(w.recorder, RECORD_STORE, unit, 0)
    elif rest:
        error = clear_unit(w, unit, x)
    elif what != TRIM:
        error = patch_unit(w, unit, at, n, cython.NULL, x)
    mutex_unlock(stripe)
    return error


def change(w, offset, n, data, what):
    d: DeviceP = w.device
    x: WorkContextP = cython.NULL
    done: uint64_t = 0
    part: uint64_t
    at: uint64_t
    held: uint32_t = 0
    error: int32_t
    while done < n:
        if x == cython.NULL:
            x = context_get(d.zswap)
            held = 0
            if x == cython.NULL:
                return ESHUTDOWN
        at = (offset + done) & (d.unit_bytes - 1)
        part = min(d.unit_bytes - at, n - done)
        error = change_unit(
            w, (offset + done) >> d.unit_shift, cython.cast(uint32_t, at),
            cython.cast(uint32_t, part), data + done if data != cython.NULL else cython.NULL, what, x
        )
        if error != ZW_OK:
            context_put(d.zswap, x)
            return errno_of(error)
        done += part
        held += 1
        if held == UNITS_PER_CONTEXT:
            context_put(d.zswap, x)
            x = cython.NULL
    if x != cython.NULL:
        context_put(d.zswap, x)
    return 0


def device_write(w, offset, n, data):
    error: int32_t = change(w, offset, n, data, WRITE)
    if error == 0:
        a64_fetch_add_rlx(cython.address(w.device.counts[N_WRITTEN_BYTES]), n)
    return error


def device_zero(w, offset, n, allocate):
    return change(w, offset, n, cython.NULL, ZERO_KEPT if allocate else ZERO)


def device_trim(w, offset, n):
    return change(w, offset, n, cython.NULL, TRIM)


# -- as Python sees it ----------------------------------------------------------------------------
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
