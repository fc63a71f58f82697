"""A block device made of the units of a Zswap: any range of bytes, from any thread.

Owns: nothing of its own: `Device` made the stripes, the counters and the list of recorders.
Guarantees: what was never written, or was trimmed, reads as zeroes and takes no room; a unit of
zeroes that is written becomes such a hole. Two writes to different bytes of one unit both survive,
for whoever changes a unit holds its stripe. A write that fails leaves the bytes of the unit that
failed, and all behind it, as they were: `zswap_replace` keeps the old unit until the new one is in.
A read of one unit sees one version of it, and takes no lock of ours. Units are changed one by one: a
write of several is not one step, as on any disk.
Assumes: nobody else uses the Zswap. Locks: see the head of block.pxd.
"""

import cython
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx
from cython.cimports.coldmem.linux.lock import MutexP, mutex_lock, mutex_unlock
from cython.cimports.coldmem.nbd.record import (
    RECORD_LOAD,
    RECORD_STORE,
    RECORD_TRIM,
    record_add,
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
from cython.cimports.libc.errno import EIO, ENOMEM, ENOSPC, ESHUTDOWN
from cython.cimports.libc.stdint import int32_t, uint8_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memcpy, memset

# What a change does to its bytes.
WRITE = cython.declare(int32_t, 0)
ZERO = cython.declare(int32_t, 1)
ZERO_KEPT = cython.declare(int32_t, 2)  # zeroes that stay allocated
TRIM = cython.declare(int32_t, 3)

STATUS_UNITS_MAX = cython.declare(uint32_t, 1 << 18)  # looked at for one answer


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
