"""The device as a file of the kernel's: its requests are read, done and answered, without the GIL.

Owns: of each serving thread its buffers, made and touched before the first request, since the memory
that a request would wait for may be what the machine is swapping to this very file.
Guarantees: each request that wants an answer gets one; what the file cannot do is ENOSYS, and the
kernel then does without. Nothing is cached between the file and its users (FOPEN_DIRECT_IO), so that
nothing is in RAM twice. The file keeps its size and owner; what would change them is EPERM.
Assumes: `FileService.run` is called by each serving thread once, with a descriptor of its own. The
mount's first request, FUSE_INIT, comes before all others: the kernel sees to that.

Locks: none but those of block.pxd. The kernel hands each request to one reader.
"""

import os
import time

import cython
from cython.cimports.coldmem.linux.atomic import a64_fetch_add_rlx, iovec
from cython.cimports.coldmem.linux.file import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE
from cython.cimports.coldmem.linux.fuse import (
    FATTR_GID,
    FATTR_MODE,
    FATTR_SIZE,
    FATTR_UID,
    FOPEN_DIRECT_IO,
    FUSE_ACCESS,
    FUSE_ASYNC_DIO,
    FUSE_ASYNC_READ,
    FUSE_BATCH_FORGET,
    FUSE_BIG_WRITES,
    FUSE_DESTROY,
    FUSE_FALLOCATE,
    FUSE_FLUSH,
    FUSE_FORGET,
    FUSE_FSYNC,
    FUSE_GETATTR,
    FUSE_INIT,
    FUSE_INTERRUPT,
    FUSE_KERNEL_VERSION,
    FUSE_MAX_PAGES,
    FUSE_OPEN,
    FUSE_READ,
    FUSE_RELEASE,
    FUSE_SETATTR,
    FUSE_STATFS,
    FUSE_WRITE,
    FallocateInP,
    InHeaderP,
    InitInP,
    OpenInP,
    ReadInP,
    SetattrInP,
    WriteInP,
    fuse_answer,
    fuse_attr_out,
    fuse_in_header,
    fuse_init_out,
    fuse_open_out,
    fuse_out_header,
    fuse_receive,
    fuse_statfs_out,
    fuse_write_in,
    fuse_write_out,
)
from cython.cimports.coldmem.linux.memory import memory_release, memory_reserve
from cython.cimports.coldmem.nbd.answer import count_error
from cython.cimports.coldmem.nbd.block import (
    N_COMMANDS,
    device_read,
    device_write,
    device_zero,
    worker_destroy,
    worker_init,
)
from cython.cimports.libc.errno import (
    EFBIG,
    EINVAL,
    EIO,
    ENOSPC,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    EPROTO,
    EROFS,
)
from cython.cimports.libc.stdint import int32_t, int64_t, uint32_t, uint64_t
from cython.cimports.libc.stdlib import calloc, free
from cython.cimports.libc.string import memset

from coldmem.nbd import protocol

READ = cython.declare(uint32_t, protocol.CMD_READ)
WRITE = cython.declare(uint32_t, protocol.CMD_WRITE)
FLUSH = cython.declare(uint32_t, protocol.CMD_FLUSH)
WRITE_ZEROES = cython.declare(uint32_t, protocol.CMD_WRITE_ZEROES)

MINOR = cython.declare(uint32_t, 31)  # of the protocol: Linux 5.4, for counts of pages and clones
REQUESTS_MAX = cython.declare(uint32_t, 64)  # that nobody waits for, under way
REGULAR = cython.declare(uint32_t, 0o100000)
WRITABLE = cython.declare(uint32_t, os.O_WRONLY | os.O_RDWR)
# The second is of Linux 6.2; before, the bit means nothing and writes take turns.
FOPEN_NOFLUSH = cython.declare(uint32_t, 1 << 5)
FOPEN_PARALLEL_DIRECT_WRITES = cython.declare(uint32_t, 1 << 6)
FALLOC_ZERO_RANGE = cython.declare(uint32_t, 0x10)
VALID_S = cython.declare(uint64_t, 3600)  # how long the kernel may believe what nothing changes


def server_new(f, fd):
    s: ServerP = cython.cast(ServerP, calloc(1, cython.sizeof(Server)))
    if s == cython.NULL:
        return cython.NULL
    s.fd = fd
    s.request = cython.cast(U8P, memory_reserve(HEAD_BYTES + DATA_BYTES_MAX))
    s.data = cython.cast(U8P, memory_reserve(DATA_BYTES_MAX))
    if s.request == cython.NULL or s.data == cython.NULL or (
        worker_init(cython.address(s.worker), f.device) != 0
    ):
        server_free(s)
        return cython.NULL
    memset(s.request, 0, HEAD_BYTES + DATA_BYTES_MAX)
    memset(s.data, 0, DATA_BYTES_MAX)
    return s


def server_free(s):
    if s.request != cython.NULL:
        memory_release(s.request, HEAD_BYTES + DATA_BYTES_MAX)
    if s.data != cython.NULL:
        memory_release(s.data, DATA_BYTES_MAX)
    worker_destroy(cython.address(s.worker))
    free(s)


def file_loop(f, s):
    got: int64_t
    head: InHeaderP = cython.cast(InHeaderP, s.request)
    # The kernel wants room for the largest request before it hands out any.
    while True:
        got = fuse_receive(s.fd, s.request, HEAD_BYTES + DATA_BYTES_MAX)
        if got < 0:
            return
        if cython.cast(uint64_t, got) >= cython.sizeof(fuse_in_header):
            request_do(f, s, head, s.request + cython.sizeof(fuse_in_header),
                       cython.cast(uint64_t, got) - cython.sizeof(fuse_in_header))


def answer(s, unique, error, body, nbytes):
    head: fuse_out_header
    parts: iovec[2]
    head.len = cython.cast(uint32_t, cython.sizeof(fuse_out_header) + nbytes)
    head.error = error
    head.unique = unique
    parts[0].iov_base = cython.address(head)
    parts[0].iov_len = cython.sizeof(fuse_out_header)
    parts[1].iov_base = cython.cast(cython.p_void, body)
    parts[1].iov_len = nbytes
    fuse_answer(s.fd, parts, 2 if nbytes else 1)  # who no longer waits for it misses nothing


def request_do(f, s, head, body, nbytes):
    what: uint32_t = head.opcode
    unique: uint64_t = head.unique
    fallocate: FallocateInP
    error: int32_t
    if what == FUSE_READ:
        do_read(f, s, unique, body)
    elif what == FUSE_WRITE:
        do_write(f, s, unique, body, nbytes)
    elif what == FUSE_FALLOCATE:
        fallocate = cython.cast(FallocateInP, body)
        error = fallocate_range(f, s, fallocate.offset, fallocate.length, fallocate.mode)
        if error != 0:
            count_error(f.device, error)
        answer(s, unique, -error, cython.NULL, 0)
    elif what in (FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT):
        return  # no answer is wanted; a request is done before anybody could interrupt it
    elif what == FUSE_INIT:
        do_init(s, unique, body)
    elif what == FUSE_GETATTR:
        do_attributes(f, s, unique)
    elif what == FUSE_SETATTR:
        error = setattr_fault(f, body)
        if error != 0:
            answer(s, unique, -error, cython.NULL, 0)
        else:
            do_attributes(f, s, unique)
    elif what == FUSE_OPEN:
        do_open(f, s, unique, body)
    elif what == FUSE_STATFS:
        do_statfs(f, s, unique)
    elif what in (FUSE_FSYNC, FUSE_FLUSH):
        a64_fetch_add_rlx(cython.address(f.device.counts[N_COMMANDS + FLUSH]), 1)
        answer(s, unique, 0, cython.NULL, 0)
    elif what in (FUSE_RELEASE, FUSE_ACCESS, FUSE_DESTROY):
        answer(s, unique, 0, cython.NULL, 0)
    else:
        answer(s, unique, -ENOSYS, cython.NULL, 0)


def do_init(s, unique, body):
    given: InitInP = cython.cast(InitInP, body)
    out: fuse_init_out
    if given.major != FUSE_KERNEL_VERSION or given.minor < MINOR:
        answer(s, unique, -EPROTO, cython.NULL, 0)
        return
    memset(cython.address(out), 0, cython.sizeof(fuse_init_out))
    out.major = FUSE_KERNEL_VERSION
    out.minor = MINOR
    out.max_readahead = given.max_readahead
    out.flags = given.flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO | FUSE_MAX_PAGES)
    out.max_background = REQUESTS_MAX
    out.congestion_threshold = REQUESTS_MAX * 3 // 4
    out.max_write = DATA_BYTES_MAX
    out.time_gran = 1_000_000_000
    out.max_pages = PAGES_MAX
    answer(s, unique, 0, cython.address(out), cython.sizeof(fuse_init_out))


def do_attributes(f, s, unique):
    out: fuse_attr_out
    memset(cython.address(out), 0, cython.sizeof(fuse_attr_out))
    out.attr_valid = VALID_S
    out.attr.ino = 1
    out.attr.size = f.device.size_bytes
    out.attr.blocks = (f.device.size_bytes + 511) // 512
    out.attr.atime = f.made_s
    out.attr.mtime = f.made_s
    out.attr.ctime = f.made_s
    out.attr.mode = REGULAR | cython.cast(uint32_t, 0o400 if f.read_only else 0o600)
    out.attr.nlink = 1
    out.attr.uid = f.uid
    out.attr.gid = f.gid
    out.attr.blksize = f.device.unit_bytes
    answer(s, unique, 0, cython.address(out), cython.sizeof(fuse_attr_out))


def do_statfs(f, s, unique):
    out: fuse_statfs_out
    memset(cython.address(out), 0, cython.sizeof(fuse_statfs_out))
    out.st.bsize = f.device.unit_bytes
    out.st.frsize = f.device.unit_bytes
    out.st.blocks = f.device.size_bytes // f.device.unit_bytes
    out.st.files = 1
    out.st.namelen = 255
    answer(s, unique, 0, cython.address(out), cython.sizeof(fuse_statfs_out))


def setattr_fault(f, body):
    given: SetattrInP = cython.cast(SetattrInP, body)
    if given.valid & (FATTR_MODE | FATTR_UID | FATTR_GID):
        return EPERM
    if given.valid & FATTR_SIZE and given.size != f.device.size_bytes:
        return EPERM
    return 0


def do_open(f, s, unique, body):
    out: fuse_open_out
    if f.read_only and cython.cast(OpenInP, body).flags & WRITABLE:
        answer(s, unique, -EROFS, cython.NULL, 0)
        return
    memset(cython.address(out), 0, cython.sizeof(fuse_open_out))
    out.open_flags = FOPEN_DIRECT_IO | FOPEN_NOFLUSH | FOPEN_PARALLEL_DIRECT_WRITES
    answer(s, unique, 0, cython.address(out), cython.sizeof(fuse_open_out))


def do_read(f, s, unique, body):
    given: ReadInP = cython.cast(ReadInP, body)
    start: uint64_t = given.offset
    n: uint64_t = given.size
    bad: uint64_t = 0
    error: int32_t = 0
    a64_fetch_add_rlx(cython.address(f.device.counts[N_COMMANDS + READ]), 1)
    if n > DATA_BYTES_MAX:
        error = EINVAL
    elif start >= f.device.size_bytes:
        n = 0
    else:
        n = min(n, f.device.size_bytes - start)
        if n > 0:
            error = device_read(cython.address(s.worker), start, cython.cast(uint32_t, n), s.data,
                                cython.NULL, cython.address(bad))
    if error != 0:
        count_error(f.device, error)
        answer(s, unique, -error, cython.NULL, 0)
    else:
        answer(s, unique, 0, s.data, n)


def do_write(f, s, unique, body, nbytes):
    given: WriteInP = cython.cast(WriteInP, body)
    out: fuse_write_out
    start: uint64_t = given.offset
    n: uint64_t = given.size
    error: int32_t = 0
    a64_fetch_add_rlx(cython.address(f.device.counts[N_COMMANDS + WRITE]), 1)
    if f.read_only:
        error = EROFS
    elif nbytes < cython.sizeof(fuse_write_in) or n > nbytes - cython.sizeof(fuse_write_in):
        error = EIO
    elif start >= f.device.size_bytes:
        error = EFBIG if n else 0
    else:
        n = min(n, f.device.size_bytes - start)
        if n > 0:
            error = device_write(cython.address(s.worker), start, cython.cast(uint32_t, n),
                                 body + cython.sizeof(fuse_write_in))
    if error != 0:
        count_error(f.device, error)
        answer(s, unique, -error, cython.NULL, 0)
        return
    memset(cython.address(out), 0, cython.sizeof(fuse_write_out))
    out.size = cython.cast(uint32_t, n)
    answer(s, unique, 0, cython.address(out), cython.sizeof(fuse_write_out))


def fallocate_range(f, s, start, nbytes, mode):
    """Holes and zeroes; to reserve room would be a promise that a compressed pool cannot keep."""
    part: uint64_t
    error: int32_t
    a64_fetch_add_rlx(cython.address(f.device.counts[N_COMMANDS + WRITE_ZEROES]), 1)
    if f.read_only:
        return EROFS
    if mode not in (
        cython.cast(uint32_t, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE),
        FALLOC_ZERO_RANGE, cython.cast(uint32_t, FALLOC_ZERO_RANGE | FALLOC_FL_KEEP_SIZE),
    ):
        return EOPNOTSUPP
    if start + nbytes < start:
        return EINVAL
    if start + nbytes > f.device.size_bytes:
        if not mode & FALLOC_FL_KEEP_SIZE:
            return ENOSPC
        nbytes = f.device.size_bytes - start if start < f.device.size_bytes else 0
    while nbytes > 0:
        part = min(nbytes, cython.cast(uint64_t, ZERO_BYTES_MAX))
        error = device_zero(cython.address(s.worker), start, cython.cast(uint32_t, part), False)
        if error != 0:
            return error
        start += part
        nbytes -= part
    return 0


# -- as Python sees it ----------------------------------------------------------------------------
class FileService:
    """The requests of one mount.

    Parameters
    ----------
    device : Device
    read_only : bool
        Refuse all changes.
    """

    def __init__(self, device, read_only=False):
        self.device = device
        self.c.device = cython.address(self.device.c)
        self.c.made_s = int(time.time())
        self.c.uid = os.getuid()
        self.c.gid = os.getgid()
        self.c.read_only = bool(read_only)

    def run(self, fd):
        """Serve until the mount is gone; by each thread, with a descriptor of its own.

        Raises
        ------
        MemoryError
            No memory for the buffers.
        """
        number: int32_t = fd
        s: ServerP
        with cython.nogil:
            s = server_new(cython.address(self.c), number)
            if s != cython.NULL:
                file_loop(cython.address(self.c), s)
                server_free(s)
        if s == cython.NULL:
            raise MemoryError("no memory for the buffers of a file")
