"""System calls on arrays, where faults are delivered as signals.

The kernel cannot be interrupted by a signal handler while it copies to or from a page: a missing page
makes the call fail with EFAULT, or, worse, come back short. So the functions of the C library that take
a buffer are replaced in all modules that call them (Python, NumPy, ...; see linux/plt.py): a buffer that
lies in an array is brought in and pinned, piece by piece where it is large, for as long as the call
runs. Other buffers cost one comparison. With handler threads nothing of this is needed or done. When
it is done, calls.py says.

What is not covered: calls that a module makes by itself with the `syscall` instruction, io_uring, and
functions that are not in `_hooks`. They fail with EFAULT, or must be inside `Memory.pinned`.

Guarantees: results are those that the call could have had anyway. Reads of files and all writes are
continued until they are done, fail, or come back short by themselves; reads of sockets, pipes and
devices return after the first piece. errno is the call's own.
Locks: as `region_pin`.
"""

import cython
from cython.cimports.coldmem.linux.atomic import keep_errno
from cython.cimports.coldmem.linux.plt import PltHook, plt_hook, plt_patch
from cython.cimports.coldmem.memory.deliver import memory_of
from cython.cimports.coldmem.memory.region import region_pin, region_unpin
from cython.cimports.coldmem.memory.state import FAULT_OK, MemoryP
from cython.cimports.libc.errno import errno
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.posix.stat import S_ISREG, fstat, struct_stat

HOOKS = cython.declare(uint32_t, 30)
PIECE_BYTES = cython.declare(uint64_t, 4 << 20)
VECTORS = cython.declare(cython.int, 16)  # buffers of one call that are looked at
_hooks = cython.declare(PltHook[30])


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _hold(buffer: cython.p_void, n: uint64_t, whole: cython.bint, h: HeldP) -> uint64_t:
    """Pin the first bytes of a buffer; how many the call may use. Not one of ours: all."""
    address: uint64_t = cython.cast(uint64_t, buffer)
    m: MemoryP = memory_of(address)
    most: uint64_t
    h.m = cython.NULL
    if m == cython.NULL or not m.sigbus or n == 0:
        return n
    most = max(min(PIECE_BYTES, m.limit_bytes // 32), m.unit_bytes)
    if n > most and not whole:
        n = most
    address -= cython.cast(uint64_t, m.base)
    h.first = address >> m.unit_shift
    h.n = ((address + n - 1) >> m.unit_shift) + 1 - h.first
    if h.first + h.n <= m.units_max and region_pin(m, h.first, h.n) == FAULT_OK:
        h.m = m
    return n  # where it cannot be pinned, the call says EFAULT


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _let_go(h: HeldP) -> cython.void:
    kept: cython.int
    if h.m != cython.NULL:
        kept = errno
        region_unpin(h.m, h.first, h.n)
        keep_errno(kept)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_file(fd: cython.int) -> cython.bint:
    s: struct_stat
    return fstat(fd, cython.address(s)) == 0 and S_ISREG(s.st_mode)


def _read(fd, buffer, n):
    h: Held
    k: uint64_t
    got: cython.Py_ssize_t
    total: cython.size_t = 0
    while True:
        k = _hold(cython.cast(cython.p_char, buffer) + total, n - total, False, cython.address(h))
        got = cython.cast(ReadFn, _hooks[0].original)(fd, cython.cast(cython.p_char, buffer) + total, k)
        _let_go(cython.address(h))
        if got <= 0:
            return total if total else got
        total += got
        if total == n or cython.cast(uint64_t, got) < k or not _is_file(fd):
            return total


def _read_chk(fd, buffer, n, room):
    return _read(fd, buffer, min(n, room))


def _write(fd, buffer, n):
    h: Held
    k: uint64_t
    got: cython.Py_ssize_t
    total: cython.size_t = 0
    while True:
        k = _hold(cython.cast(cython.p_char, buffer) + total, n - total, False, cython.address(h))
        got = cython.cast(ReadFn, _hooks[1].original)(fd, cython.cast(cython.p_char, buffer) + total, k)
        _let_go(cython.address(h))
        if got <= 0:
            return total if total else got
        total += got
        if total == n or cython.cast(uint64_t, got) < k:
            return total


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _at(call: cython.p_void, fd: cython.int, buffer: cython.p_void, n: cython.size_t, at: off_t
        ) -> cython.Py_ssize_t:
    h: Held
    k: uint64_t
    got: cython.Py_ssize_t
    total: cython.size_t = 0
    while True:
        k = _hold(cython.cast(cython.p_char, buffer) + total, n - total, False, cython.address(h))
        got = cython.cast(PreadFn, call)(
            fd, cython.cast(cython.p_char, buffer) + total, k, at + cython.cast(off_t, total)
        )
        _let_go(cython.address(h))
        if got <= 0:
            return total if total else got
        total += got
        if total == n or cython.cast(uint64_t, got) < k:
            return total


def _pread(fd, buffer, n, at):
    return _at(_hooks[2].original, fd, buffer, n, at)


def _pread_chk(fd, buffer, n, at, room):
    return _at(_hooks[2].original, fd, buffer, min(n, room), at)


def _pwrite(fd, buffer, n, at):
    return _at(_hooks[4].original, fd, buffer, n, at)


def _recv(fd, buffer, n, flags):
    h: Held
    got: cython.Py_ssize_t
    k: uint64_t = _hold(buffer, n, flags != 0, cython.address(h))
    got = cython.cast(RecvFn, _hooks[6].original)(fd, buffer, k, flags)
    _let_go(cython.address(h))
    return got


def _recv_chk(fd, buffer, n, room, flags):
    return _recv(fd, buffer, min(n, room), flags)


def _send(fd, buffer, n, flags):
    h: Held
    k: uint64_t
    got: cython.Py_ssize_t
    total: cython.size_t = 0
    while True:
        k = _hold(cython.cast(cython.p_char, buffer) + total, n - total, False, cython.address(h))
        got = cython.cast(RecvFn, _hooks[7].original)(
            fd, cython.cast(cython.p_char, buffer) + total, k, flags
        )
        _let_go(cython.address(h))
        if got <= 0:
            return total if total else got
        total += got
        if total == n or cython.cast(uint64_t, got) < k:
            return total


def _recvfrom(fd, buffer, n, flags, a, an):
    h: Held
    got: cython.Py_ssize_t
    k: uint64_t = _hold(buffer, n, True, cython.address(h))
    got = cython.cast(RecvfromFn, _hooks[8].original)(fd, buffer, k, flags, a, an)
    _let_go(cython.address(h))
    return got


def _sendto(fd, buffer, n, flags, a, an):
    h: Held
    got: cython.Py_ssize_t
    k: uint64_t = _hold(buffer, n, True, cython.address(h))
    got = cython.cast(SendtoFn, _hooks[9].original)(fd, buffer, k, flags, a, an)
    _let_go(cython.address(h))
    return got


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _hold_all(v: IovecsP, n: cython.int, held: HeldP) -> cython.int:
    """Pin the buffers of a call, the first VECTORS of them if one of those is ours; how many to use."""
    i: cython.int
    some: cython.bint = False
    for i in range(min(n, VECTORS)):
        _hold(v[i].iov_base, v[i].iov_len, True, held + i)
        if held[i].m != cython.NULL:
            some = True
    return min(n, VECTORS) if some else n


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _let_all_go(n: cython.int, held: HeldP) -> cython.void:
    i: cython.int
    for i in range(min(n, VECTORS)):
        _let_go(held + i)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _vector(call: cython.p_void, fd: cython.int, v: IovecsP, n: cython.int) -> cython.Py_ssize_t:
    held: Held[16]
    got: cython.Py_ssize_t
    got = cython.cast(ReadvFn, call)(fd, v, _hold_all(v, n, held))
    _let_all_go(n, held)
    return got


def _readv(fd, v, n):
    return _vector(_hooks[10].original, fd, v, n)


def _writev(fd, v, n):
    return _vector(_hooks[11].original, fd, v, n)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _vector_at(call: cython.p_void, fd: cython.int, v: IovecsP, n: cython.int, at: off_t
               ) -> cython.Py_ssize_t:
    held: Held[16]
    got: cython.Py_ssize_t
    got = cython.cast(PreadvFn, call)(fd, v, _hold_all(v, n, held), at)
    _let_all_go(n, held)
    return got


def _preadv(fd, v, n, at):
    return _vector_at(_hooks[22].original, fd, v, n, at)


def _pwritev(fd, v, n, at):
    return _vector_at(_hooks[24].original, fd, v, n, at)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _vector_at2(call: cython.p_void, fd: cython.int, v: IovecsP, n: cython.int, at: off_t,
                flags: cython.int) -> cython.Py_ssize_t:
    held: Held[16]
    got: cython.Py_ssize_t
    got = cython.cast(Preadv2Fn, call)(fd, v, _hold_all(v, n, held), at, flags)
    _let_all_go(n, held)
    return got


def _preadv2(fd, v, n, at, flags):
    return _vector_at2(_hooks[26].original, fd, v, n, at, flags)


def _pwritev2(fd, v, n, at, flags):
    return _vector_at2(_hooks[28].original, fd, v, n, at, flags)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _message(call: cython.p_void, fd: cython.int, message: MessageP, flags: cython.int
             ) -> cython.Py_ssize_t:
    held: Held[16]
    got: cython.Py_ssize_t
    n: cython.int = cython.cast(cython.int, message.msg_iovlen)
    message.msg_iovlen = _hold_all(message.msg_iov, n, held)
    got = cython.cast(MessageFn, call)(fd, message, flags)
    message.msg_iovlen = n
    _let_all_go(n, held)
    return got


def _recvmsg(fd, message, flags):
    return _message(_hooks[12].original, fd, message, flags)


def _sendmsg(fd, message, flags):
    return _message(_hooks[13].original, fd, message, flags)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _items(call: cython.p_void, buffer: cython.p_void, size: cython.size_t, count: cython.size_t,
           file: cython.pointer(FILE)) -> cython.size_t:
    h: Held
    k: cython.size_t
    got: cython.size_t
    total: cython.size_t = 0
    at: cython.p_char = cython.cast(cython.p_char, buffer)
    if size == 0 or count == 0 or memory_of(cython.cast(uint64_t, buffer)) == cython.NULL:
        return cython.cast(FreadFn, call)(buffer, size, count, file)
    while True:
        k = min(max(PIECE_BYTES // size, 1), count - total)
        _hold(at + total * size, k * size, True, cython.address(h))
        got = cython.cast(FreadFn, call)(at + total * size, size, k, file)
        _let_go(cython.address(h))
        total += got
        if total == count or got < k:
            return total


def _fread(buffer, size, count, file):
    return _items(_hooks[14].original, buffer, size, count, file)


def _fread_chk(buffer, room, size, count, file):
    return _items(_hooks[14].original, buffer, size, count, file)


def _fwrite(buffer, size, count, file):
    return _items(_hooks[15].original, buffer, size, count, file)


def syscalls_put(seen):
    if _hooks[0].name == cython.NULL:
        _find()
    plt_patch(_hooks, HOOKS, seen)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _find() -> cython.void:
    plt_hook(_hooks + 0, b"read", cython.cast(cython.p_void, _read))
    plt_hook(_hooks + 1, b"write", cython.cast(cython.p_void, _write))
    plt_hook(_hooks + 2, b"pread", cython.cast(cython.p_void, _pread))
    plt_hook(_hooks + 3, b"pread64", cython.cast(cython.p_void, _pread))
    plt_hook(_hooks + 4, b"pwrite", cython.cast(cython.p_void, _pwrite))
    plt_hook(_hooks + 5, b"pwrite64", cython.cast(cython.p_void, _pwrite))
    plt_hook(_hooks + 6, b"recv", cython.cast(cython.p_void, _recv))
    plt_hook(_hooks + 7, b"send", cython.cast(cython.p_void, _send))
    plt_hook(_hooks + 8, b"recvfrom", cython.cast(cython.p_void, _recvfrom))
    plt_hook(_hooks + 9, b"sendto", cython.cast(cython.p_void, _sendto))
    plt_hook(_hooks + 10, b"readv", cython.cast(cython.p_void, _readv))
    plt_hook(_hooks + 11, b"writev", cython.cast(cython.p_void, _writev))
    plt_hook(_hooks + 12, b"recvmsg", cython.cast(cython.p_void, _recvmsg))
    plt_hook(_hooks + 13, b"sendmsg", cython.cast(cython.p_void, _sendmsg))
    plt_hook(_hooks + 14, b"fread", cython.cast(cython.p_void, _fread))
    plt_hook(_hooks + 15, b"fwrite", cython.cast(cython.p_void, _fwrite))
    plt_hook(_hooks + 16, b"__read_chk", cython.cast(cython.p_void, _read_chk))
    plt_hook(_hooks + 17, b"__pread_chk", cython.cast(cython.p_void, _pread_chk))
    plt_hook(_hooks + 18, b"__pread64_chk", cython.cast(cython.p_void, _pread_chk))
    plt_hook(_hooks + 19, b"__recv_chk", cython.cast(cython.p_void, _recv_chk))
    plt_hook(_hooks + 20, b"__fread_chk", cython.cast(cython.p_void, _fread_chk))
    plt_hook(_hooks + 21, b"fread_unlocked", cython.cast(cython.p_void, _fread))
    plt_hook(_hooks + 22, b"preadv", cython.cast(cython.p_void, _preadv))
    plt_hook(_hooks + 23, b"preadv64", cython.cast(cython.p_void, _preadv))
    plt_hook(_hooks + 24, b"pwritev", cython.cast(cython.p_void, _pwritev))
    plt_hook(_hooks + 25, b"pwritev64", cython.cast(cython.p_void, _pwritev))
    plt_hook(_hooks + 26, b"preadv2", cython.cast(cython.p_void, _preadv2))
    plt_hook(_hooks + 27, b"preadv64v2", cython.cast(cython.p_void, _preadv2))
    plt_hook(_hooks + 28, b"pwritev2", cython.cast(cython.p_void, _pwritev2))
    plt_hook(_hooks + 29, b"pwritev64v2", cython.cast(cython.p_void, _pwritev2))
