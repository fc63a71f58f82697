"""NumPy's allocator hook (NEP 49): data of new arrays lands in a Memory.

Owns: one `Hook` per Memory, inside a capsule. Each array keeps the capsule it was allocated by, the
capsule keeps the Memory, so an array may outlive every ``with`` block and is freed to where it came
from.
Guarantees: what is smaller than the threshold goes to NumPy's own allocator; its price is one
comparison. An allocation that is refused comes back as NULL, which NumPy turns into MemoryError.
Locks: none; the functions may be called without the GIL.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load_acq,
    a64_fetch_add_rlx,
    a64_load_acq,
    a64_load_rlx,
    a64_store_rlx,
)
from cython.cimports.coldmem.memory.manager import Manager, manager_alloc
from cython.cimports.coldmem.memory.region import region_free, region_size
from cython.cimports.coldmem.memory.spare import spare_begin, spare_drop, spare_put, spare_take
from cython.cimports.cpython.pycapsule import (
    PyCapsule_Destructor,
    PyCapsule_GetContext,
    PyCapsule_GetPointer,
    PyCapsule_IsValid,
    PyCapsule_New,
    PyCapsule_SetContext,
)
from cython.cimports.cpython.ref import Py_DECREF, Py_INCREF
from cython.cimports.libc.stdint import uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memcpy, strcpy

from coldmem.errors import EnvironmentFailure

# Places in NumPy's C API, since 1.22.
SET_HANDLER = cython.declare(cython.int, 304)
DEFAULT_HANDLER = cython.declare(cython.int, 306)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _ours(h: HookP, p: cython.p_void) -> cython.bint:
    """Once it is closed, nothing is."""
    at: uint64_t = cython.cast(uint64_t, p)
    units: uint64_t = a64_load_acq(cython.address(h.m.units_max))
    base: uint64_t = a64_load_rlx(
        cython.cast(cython.pointer(uint64_t), cython.address(h.m.base)))
    return base <= at < base + (units << h.m.unit_shift)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _closed(h: HookP) -> cython.bint:
    """Closed, or about to be; a thread that was started before may still use the hook."""
    return a32_load_acq(cython.address(h.m.closing)) != 0 or (
        a64_load_acq(cython.address(h.m.units_max)) == 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _inner(h: HookP, size: uint64_t, zeros: cython.bint) -> cython.p_void:
    return h.inner.calloc(h.inner.ctx, 1, size) if zeros else h.inner.malloc(h.inner.ctx, size)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _take(h: HookP, size: uint64_t, zeros: cython.bint) -> cython.p_void:
    live: uint64_t
    p: cython.p_void = cython.NULL
    if _closed(h):
        return _inner(h, size, zeros)
    if not zeros:
        p = spare_take(h.m, cython.address(h.spares), size)
    if p == cython.NULL:
        p = manager_alloc(h.m, h.promise, size)
    if p == cython.NULL:
        if _closed(h):  # just now
            return _inner(h, size, zeros)
        spare_drop(h.m, cython.address(h.spares))
        p = manager_alloc(h.m, h.promise, size)
    if p == cython.NULL:
        a64_fetch_add_rlx(cython.address(h.refused), 1)
        a64_store_rlx(cython.address(h.refused_bytes), size)
        a64_store_rlx(cython.address(h.refused_at_bytes), a64_load_rlx(cython.address(h.m.array_bytes)))
        return p
    a64_fetch_add_rlx(cython.address(h.taken), 1)
    a64_fetch_add_rlx(cython.address(h.taken_bytes), size)
    live = a64_load_rlx(cython.address(h.m.array_bytes)) - (
        a64_load_rlx(cython.address(h.spares.bytes)))
    if live > a64_load_rlx(cython.address(h.peak_bytes)):
        a64_store_rlx(cython.address(h.peak_bytes), live)
    return p


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _malloc(ctx: cython.p_void, size: cython.size_t) -> cython.p_void:
    h: HookP = cython.cast(HookP, ctx)
    if size < h.threshold_bytes:
        return h.inner.malloc(h.inner.ctx, size)
    return _take(h, size, False)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _calloc(ctx: cython.p_void, count: cython.size_t, size: cython.size_t) -> cython.p_void:
    h: HookP = cython.cast(HookP, ctx)
    if size and count > cython.cast(cython.size_t, -1) // size:
        return cython.NULL
    if count * size < h.threshold_bytes:
        return h.inner.calloc(h.inner.ctx, count, size)
    return _take(h, count * size, True)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _realloc(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.p_void:
    h: HookP = cython.cast(HookP, ctx)
    new: cython.p_void
    had: uint64_t
    if p == cython.NULL:
        return _malloc(ctx, size)
    if not _ours(h, p):
        if size < h.threshold_bytes:
            return h.inner.realloc(h.inner.ctx, p, size)
        # It grows out of NumPy's hands. How much there is to copy only malloc knows.
        p = h.inner.realloc(h.inner.ctx, p, size)
        if p == cython.NULL:
            return cython.NULL
        new = _take(h, size, False)
        if new == cython.NULL:
            return p
        memcpy(new, p, size)
        h.inner.free(h.inner.ctx, p, size)
        return new
    had = region_size(h.m, p)
    new = _malloc(ctx, size)
    if new == cython.NULL:
        return cython.NULL
    memcpy(new, p, min(had, size))
    region_free(h.m, p)
    return new


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _free(ctx: cython.p_void, p: cython.p_void, size: cython.size_t) -> cython.void:
    h: HookP = cython.cast(HookP, ctx)
    if p != cython.NULL and _ours(h, p):
        if not spare_put(h.m, cython.address(h.spares), p):
            region_free(h.m, p)
    else:
        h.inner.free(h.inner.ctx, p, size)


@cython.cfunc
@cython.exceptval(check=False)
def _gone(capsule: cython.pointer(PyObject)) -> cython.void:
    """The capsule's destructor: no array needs the Memory any more."""
    h: cython.p_void = PyCapsule_GetPointer(cython.cast(object, capsule), b"mem_handler")
    manager: cython.pointer(PyObject) = cython.cast(
        cython.pointer(PyObject), PyCapsule_GetContext(cython.cast(object, capsule))
    )
    free(h)
    Py_DECREF(cython.cast(object, manager))


def make_hook(manager: object, threshold_bytes: int) -> object:
    """A capsule for `set_hook`, of a Memory."""
    owner: Manager = manager
    h: HookP = cython.cast(HookP, calloc(1, cython.sizeof(Hook)))
    if h == cython.NULL:
        raise MemoryError("no memory for NumPy's hook")
    h.inner = _default().allocator
    strcpy(h.handler.name, b"coldmem")
    h.handler.version = 1
    h.handler.allocator.ctx = h
    h.handler.allocator.malloc = _malloc
    h.handler.allocator.calloc = _calloc
    h.handler.allocator.realloc = _realloc
    h.handler.allocator.free = _free
    h.m = owner.c
    h.promise = owner.promise
    h.threshold_bytes = threshold_bytes
    capsule = PyCapsule_New(h, b"mem_handler", cython.cast(PyCapsule_Destructor, _gone))
    Py_INCREF(owner)
    PyCapsule_SetContext(capsule, cython.cast(cython.p_void, owner))
    return capsule


def hook_stats(hook: object) -> dict[str, int]:
    """What went through a hook: arrays taken, their bytes, most bytes alive, allocations refused.

    Of the last that was refused, its bytes, and those of the arrays that were alive. Gives back what is
    kept for arrays to come, so that an account that is taken next is of arrays that live.
    """
    h: HookP = cython.cast(HookP, PyCapsule_GetPointer(hook, b"mem_handler"))
    spare_drop(h.m, cython.address(h.spares))
    return {
        "taken": a64_load_rlx(cython.address(h.taken)),
        "taken_bytes": a64_load_rlx(cython.address(h.taken_bytes)),
        "peak_bytes": a64_load_rlx(cython.address(h.peak_bytes)),
        "refused": a64_load_rlx(cython.address(h.refused)),
        "refused_bytes": a64_load_rlx(cython.address(h.refused_bytes)),
        "refused_at_bytes": a64_load_rlx(cython.address(h.refused_at_bytes)),
        "promise_bytes": h.promise,
    }


def replace_default(hook: object) -> None:
    """Make `hook` what every thread and context uses that has set nothing else. For ever.

    What it gives back is kept for what it takes next, within bounds (spare.py).
    NumPy has one default allocator, a structure in its data, to which each context begins to
    point. Its functions are changed in place, so it needs no help of threads, whoever starts them,
    and what was allocated before is freed as before.
    """
    h: HookP = cython.cast(HookP, PyCapsule_GetPointer(hook, b"mem_handler"))
    default: HandlerP = _default()
    h.inner = default.allocator
    Py_INCREF(hook)  # NumPy's structure points to it from now on
    spare_begin(cython.address(h.spares))
    default.allocator = h.handler.allocator


def set_hook(hook: object) -> object:
    """Make NumPy allocate through `hook` in this thread (or context); what was set before.

    None stands for NumPy's own allocator.
    """
    return cython.cast(SetHandler, _api()[SET_HANDLER])(
        cython.cast(cython.pointer(PyObject), hook) if hook is not None else cython.NULL
    )


@cython.cfunc
def _default() -> HandlerP:
    capsule: cython.pointer(PyObject) = cython.cast(PyObjectPP, _api()[DEFAULT_HANDLER])[0]
    return cython.cast(HandlerP, PyCapsule_GetPointer(cython.cast(object, capsule), b"mem_handler"))


@cython.cfunc
def _api() -> cython.pp_void:
    try:
        from numpy._core import _multiarray_umath as core
    except ImportError:
        from numpy.core import _multiarray_umath as core
    table = core._ARRAY_API
    if not PyCapsule_IsValid(table, cython.NULL):
        raise EnvironmentFailure("this NumPy does not show its C API: coldmem needs NumPy 1.26 or later")
    return cython.cast(cython.pp_void, PyCapsule_GetPointer(table, cython.NULL))
