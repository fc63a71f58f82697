"""When calls of the C library are replaced, for memories that serve faults by SIGBUS.

What is replaced: functions that take buffers (syscalls.py), functions that block signals or set what is
done on SIGBUS (sigcalls.py), and `dlopen`, so that a module is looked after before its first own line
runs. `calls_watch` is called when a Memory is made and at every allocation too, for what comes to be
loaded in another way: by a bare name ("libx.so.1"), which the loader must see as its caller's.

Guarantees: with no Memory whose delivery is "sigbus", nothing is replaced until C code forks: its child
serves itself by SIGBUS (child.py). What was replaced once stays so, and does what the C library's own
function does when no such Memory is open.
Locks: `_busy`, which is held while tables are changed. A child of a fork begins with it free.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_store_rel,
    a64_load_rlx,
    a64_store_rlx,
    keep_errno,
    sched_yield,
)
from cython.cimports.coldmem.linux.plt import PltHook, PltSeen, plt_hook, plt_modules, plt_patch
from cython.cimports.coldmem.linux.process import pthread_atfork
from cython.cimports.coldmem.memory.sigcalls import sigcalls_put
from cython.cimports.coldmem.memory.syscalls import syscalls_put
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import int32_t, uint32_t, uint64_t
from cython.cimports.libc.string import strchr

PATIENCE = cython.declare(uint32_t, 10_000)
_dlopen_hook = cython.declare(PltHook[1])
_seen = cython.declare(PltSeen)
_busy = cython.declare(int32_t, 0)
_modules = cython.declare(uint64_t, 0)  # that were there at the last look


def _dlopen(name, flags):
    module: cython.p_void
    kept: cython.int
    before: uint64_t = a64_load_rlx(cython.address(_seen.modules))
    call: DlopenFn = cython.cast(DlopenFn, _dlopen_hook[0].original)
    if name == cython.NULL or strchr(name, ord(b"/")) == cython.NULL or (
        strchr(name, ord(b"$")) != cython.NULL
    ):
        return call(name, flags)  # a jump, not a call: where it looks depends on the caller
    module = call(name, flags)
    if module != cython.NULL:
        kept = errno
        _put(before)
        keep_errno(kept)
    return module


def calls_watch():
    if plt_modules() != a64_load_rlx(cython.address(_modules)):
        _put(a64_load_rlx(cython.address(_seen.modules)))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put(first: uint64_t) -> cython.void:
    """Look at the modules from this place of the list on.

    Another thread may have looked at what we have just loaded while the loader was at work on it,
    which is why it is not enough to look at what nobody has looked at.
    """
    modules: uint64_t
    seen: PltSeen
    tries: uint32_t = 0
    while not a32_cas(cython.address(_busy), 0, 1):
        tries += 1
        if tries == PATIENCE:
            return  # there is a next time
        sched_yield()
    if _dlopen_hook[0].name == cython.NULL:
        plt_hook(_dlopen_hook, b"dlopen", cython.cast(cython.p_void, _dlopen))
    modules = plt_modules()
    _seen.modules = min(_seen.modules, first)
    seen = _seen
    sigcalls_put(cython.address(seen))
    seen = _seen
    syscalls_put(cython.address(seen))
    seen = _seen
    plt_patch(_dlopen_hook, 1, cython.address(seen))
    _seen.gone = seen.gone
    a64_store_rlx(cython.address(_seen.modules), seen.modules)
    a64_store_rlx(cython.address(_modules), modules)
    a32_store_rel(cython.address(_busy), 0)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _in_child() -> cython.void:
    a32_store_rel(cython.address(_busy), 0)


pthread_atfork(cython.NULL, cython.NULL, _in_child)
