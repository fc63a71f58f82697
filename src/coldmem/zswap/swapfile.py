"""The swap file: room for compressed entries on disk, and their transfers.

Owns: one file without a name (mode 0600, closed on exec, gone when the process is), its space map
(swapmap.py), and the counters.
Guarantees: two entries never overlap; `used_bytes` and all counters are exact; what cannot be read
or written is reported as -errno and never as success; bytes past `swap_max` are never written. Disk
space goes back: a region of 1 MiB that becomes free is punched out of the file, in batches of
`PUNCH_BATCH` (smaller for small files; `trim` does it at once), except with `preallocate`.
Assumes: an entry is freed only by its owner, with the length it was allocated with, and not while a
transfer of it is under way. That the data read is the data written is for the caller to check, with
`checksum`: this layer cannot know.

Locks: `lock` guards the map; it is a leaf and is never held during a system call. A batch of
regions is marked busy under the lock, punched without it, and given back under it. Busy regions are
not in the run trees, so nothing that is in use or being handed out can be punched. An allocation
that finds no room while regions are busy waits for them instead of failing.

Placement: an entry takes ``ceil(n / granule)`` granules, a granule being a sixteenth of a unit, and
lies within one block of four units. Entries allocated in a row are adjacent until a block ends.

The directory, when none is given: $TMPDIR, else /var/tmp, else /tmp: the first that can be written
and is not in memory (tmpfs, ramfs), since a swap file in RAM saves nothing. If all of them are, the
first that can be written; `in_memory` says so.

Transfers go through the page cache, so a `write` that succeeded may still fail on its way to the
device; the kernel then drops the page, and the next read returns old data or EIO.

========================================  =======================================================
What goes wrong                           What happens
========================================  =======================================================
no such directory, no right, no space     SwapFileError when the file is made
`swap_max` reached, or no run fits        -ENOSPC from swap_alloc; nothing changed
disk full while growing, EIO on write     -errno from swap_write; the entry is still the caller's,
                                          who frees it and keeps the data in RAM
short transfer, EINTR                     survived: continued
slow device                               survived: no lock is held meanwhile
EIO on read                               -errno from swap_read
end of file where data should be          -EIO from swap_read
flipped bits, torn sector, lost write,    not visible here; found by the caller's checksum, whose
data of another offset                    seed is the slot
no hole punching on this file system      survived: the space is reused, but stays on disk
fork                                      survived: in the child swap_alloc and swap_write return
                                          -EROFS and swap_free does nothing, since the file is the
                                          parent's too; what was there can be read,
                                          its room is not reused while children live
close while transfers run                 survived: close waits for them; later ones get -EBADF
========================================  =======================================================
"""

import errno as errno_names
import os

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_load,
    a64_load_rlx,
    a64_store_rel,
    futex_wait,
)
from cython.cimports.coldmem.linux.lock import mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.zswap.children import children_look, children_watch
from cython.cimports.coldmem.zswap.swapcore import (
    PUNCH_BATCH,
    SwapFileP,
    swap_alloc,
    swap_charge,
    swap_close,
    swap_free,
    swap_punch,
    swap_read,
    swap_write,
)
from cython.cimports.coldmem.zswap.swapio import Faults
from cython.cimports.coldmem.zswap.swapmap import (
    REGION_SHIFT,
    map_check,
    map_destroy,
    map_in_use,
    map_init,
)
from cython.cimports.cpython.buffer import PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cython.cimports.cpython.bytes import PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cython.cimports.libc.errno import EBADF
from cython.cimports.libc.stdint import int32_t, int64_t, uint8_t, uint32_t, uint64_t

from coldmem.errors import (
    ClosedError,
    InternalError,
    InvalidQuantityError,
    InvalidSizeError,
    MemoryLimitError,
    SwapFileError,
    UsageError,
)
from coldmem.linux.file import in_memory
from coldmem.units import format_bytes, parse_bytes
from coldmem.zswap.swapdir import default_directory, open_swap_file

SWAP_MAX_LIMIT = 1 << 44  # 16 TiB, the largest file of ext4

_MAP_FAULTS = {
    1: "the run trees disagree with a word of region",
    2: "a level of the run trees disagrees with the one below at group",
    3: "the count of granules is wrong in region",
    4: "the list of regions to punch is wrong at region",
    5: "the total of used granules is wrong; last region",
    6: "something is marked beyond the end at word",
}


# -- the file as Python sees it --------------------------------------------------------------------
class SwapFile:
    """A file without a name that holds compressed entries.

    Parameters
    ----------
    swap_max : int or str
        The most bytes that entries may occupy; text such as ``"2GiB"`` is taken.
    unit_bytes : int
        The largest entry: a power of two from 1 KiB to 256 KiB. An entry occupies whole sixteenths.
    directory : str or path-like, optional
        Where the file lives. By default $TMPDIR, /var/tmp or /tmp, on a disk if there is one.
    preallocate : bool
        Reserve the disk space of `swap_max` now and keep it. Else the file grows as needed.

    Raises
    ------
    SwapFileError
        When the file cannot be made there, or its space cannot be reserved.

    Notes
    -----
    All methods may be called from any thread. The methods for entries are for inspection and tests;
    the engine uses the C functions of swapfile.pxd.
    """

    def __cinit__(self) -> None:
        self.c.fd = -1
        self.c.closed = 1
        mutex_init(cython.address(self.c.lock), False)

    def __init__(self, swap_max: int | str, *, unit_bytes: int = 4096,
                 directory: str | os.PathLike[str] | None = None,
                 preallocate: bool = False) -> None:
        size = parse_bytes(swap_max)
        if size > SWAP_MAX_LIMIT:
            raise InvalidQuantityError(f"swap_max of {format_bytes(size)} is more than 16 TiB")
        if unit_bytes & (unit_bytes - 1) or not 1024 <= unit_bytes <= 256 << 10:
            raise InvalidSizeError(f"unit_bytes={unit_bytes}: a power of two, 1 KiB to 256 KiB")
        if self.fault_tables is not None:
            raise UsageError("a SwapFile is made once; make another one")
        self.directory = os.fspath(directory) if directory is not None else default_directory()
        self.unit_bytes = self.c.unit_bytes = unit_bytes
        self.fault_tables = []
        if map_init(cython.address(self.c.map), unit_bytes, size):
            raise MemoryLimitError(f"no address space for the map of a {format_bytes(size)} file")
        self.c.bytes_max = self.c.map.granules_max << self.c.map.granule_shift
        try:
            self.c.fd = open_swap_file(self.directory, self.c.bytes_max if preallocate else 0)
        except SwapFileError:
            map_destroy(cython.address(self.c.map))
            raise
        self.in_memory = in_memory(self.directory)
        if not preallocate:
            self.c.punch_batch = min(PUNCH_BATCH, max(1, self.c.bytes_max >> (REGION_SHIFT + 3)))
        self.c.closed = 0
        with cython.nogil:
            children_watch(cython.address(self.c))

    def __dealloc__(self) -> None:
        # No Python here: the interpreter may be going down.
        swap_close(cython.address(self.c))

    def __enter__(self):
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{format_bytes(self.used_bytes)} used"
        return f"<SwapFile in {self.directory}, {state} of {format_bytes(self.c.bytes_max)}>"

    def close(self) -> None:
        """Wait for the transfers that run, then drop the file and all that is in it. Idempotent."""
        f: SwapFileP = cython.address(self.c)
        with cython.nogil:
            swap_close(f)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return a32_load(cython.address(self.c.closed)) != 0

    @property
    def used_bytes(self) -> int:
        """Bytes that entries occupy, whole granules."""
        if a32_load(cython.address(self.c.holds)):
            with cython.nogil:
                children_look()
        return a64_load_rlx(cython.address(self.c.used_bytes))

    @property
    def swap_max_bytes(self) -> int:
        """The most bytes that entries may occupy; `swap_max` in whole granules."""
        return self.c.bytes_max

    def charge(self, nbytes: int) -> int:
        """Bytes that an entry of `nbytes` occupies."""
        self._check_size(nbytes)
        return swap_charge(cython.address(self.c), nbytes)

    def _check_size(self, nbytes):
        if not 1 <= nbytes <= self.unit_bytes:
            raise InvalidSizeError(f"an entry has 1 to {self.unit_bytes} bytes, not {nbytes}")

    def _check_range(self, offset, nbytes):
        """The range is allocated, or UsageError."""
        f: SwapFileP = cython.address(self.c)
        shift: uint32_t = f.map.granule_shift
        first: uint64_t
        count: uint64_t
        ok: cython.bint = offset >= 0 and 0 < nbytes <= f.bytes_max - min(offset, f.bytes_max)
        if self.closed:
            raise ClosedError("the swap file is closed")
        if ok:
            first = offset >> shift
            count = ((offset + nbytes - 1) >> shift) - first + 1
            with cython.nogil:
                mutex_lock(cython.address(f.lock))
                ok = not f.closed and map_in_use(cython.address(f.map), first, count)
                mutex_unlock(cython.address(f.lock))
        if not ok:
            raise UsageError(f"bytes {offset} to {offset + nbytes} are not allocated")

    def _failed(self, what, code):
        if code == -EBADF:
            raise ClosedError("the swap file is closed")
        number: cython.int = -code
        why = {
            errno_names.ENOSPC: "no space is left",
            errno_names.EROFS: "it belongs to the process that this one was forked from",
        }.get(number, os.strerror(number))
        raise SwapFileError(f"{what} in the swap file in {self.directory} failed: {why}",
                            errno=number)

    def alloc(self, nbytes: int) -> int:
        """Reserve room for an entry.

        Parameters
        ----------
        nbytes : int
            1 to `unit_bytes`.

        Returns
        -------
        int
            The offset, to be given back with `free`.

        Raises
        ------
        SwapFileError
            With errno ENOSPC when there is no room.
        """
        f: SwapFileP = cython.address(self.c)
        n: uint32_t
        offset: int64_t
        self._check_size(nbytes)
        n = nbytes
        with cython.nogil:
            offset = swap_alloc(f, n)
        if offset < 0:
            self._failed(f"an allocation of {nbytes} bytes", offset)
        return offset

    def free(self, offset: int, nbytes: int) -> None:
        """Give room back.

        Parameters
        ----------
        offset, nbytes : int
            What `alloc` returned, and what it was asked for.

        Raises
        ------
        UsageError
            When these bytes are not allocated (freed twice, or never given out).
        """
        f: SwapFileP = cython.address(self.c)
        n: uint32_t
        at: int64_t
        self._check_size(nbytes)
        self._check_range(offset, nbytes)
        if offset & ((1 << f.map.granule_shift) - 1):
            raise UsageError(f"{offset} is not the offset of an entry")
        n = nbytes
        at = offset
        with cython.nogil:
            swap_free(f, at, n)

    def write(self, offset: int, data: object) -> None:
        """Write all of `data`; its whole range must be allocated.

        Parameters
        ----------
        offset : int
            Where it begins: an entry's offset, or any place inside one.
        data : bytes-like
            Contiguous; neighbouring entries may go in one.

        Raises
        ------
        SwapFileError
            When the system refuses; `errno` says why. What is on disk there is then undefined.
        """
        f: SwapFileP = cython.address(self.c)
        view = cython.declare(Py_buffer)
        at: int64_t
        error: int32_t
        PyObject_GetBuffer(data, cython.address(view), PyBUF_SIMPLE)
        try:
            self._check_range(offset, view.len)
            at = offset
            with cython.nogil:
                error = swap_write(f, cython.cast(cython.pointer(cython.const[uint8_t]), view.buf),
                                   cython.cast(uint64_t, view.len), at)
        finally:
            PyBuffer_Release(cython.address(view))
        if error:
            self._failed("a write", error)

    def read(self, offset: int, nbytes: int) -> bytes:
        """Read a range; all of it must be allocated.

        Parameters
        ----------
        offset, nbytes : int
            Where it begins, and how long it is.

        Returns
        -------
        bytes
            `nbytes` of them.

        Raises
        ------
        SwapFileError
            When the system refuses, or the file has nothing there.
        """
        f: SwapFileP = cython.address(self.c)
        n: uint64_t
        at: int64_t
        error: int32_t
        dst: cython.pointer(uint8_t)
        self._check_range(offset, nbytes)
        n = nbytes
        at = offset
        out = PyBytes_FromStringAndSize(cython.NULL, nbytes)
        dst = cython.cast(cython.pointer(uint8_t), PyBytes_AS_STRING(out))
        with cython.nogil:
            error = swap_read(f, dst, n, at)
        if error:
            self._failed("a read", error)
        return out

    def trim(self) -> int:
        """Give the disk space of every free region back now; bytes given back."""
        f: SwapFileP = cython.address(self.c)
        regions: uint64_t = 0
        got: uint32_t = 1
        with cython.nogil:
            while got:
                while a32_load(cython.address(f.punching)):
                    futex_wait(cython.address(f.punching), 1, -1)
                got = swap_punch(f)
                regions += got
        return regions << REGION_SHIFT

    def stats(self) -> dict[str, object]:
        """What the file holds and has done.

        Returns
        -------
        dict
            ``swap_max_bytes``, ``size_bytes`` (the map's end: the highest the file has grown),
            ``used_bytes`` (occupied by entries), ``file_bytes`` (really on disk, from st_blocks),
            ``writes``, ``reads`` (transfers ended, failed ones too), ``write_errors``,
            ``read_errors``, ``written_bytes``, ``read_bytes``, ``punched_bytes``,
            ``punch_errors``, ``directory``, ``in_memory``. Each counter is exact.
        """
        f: SwapFileP = cython.address(self.c)
        size: uint64_t
        used: uint64_t
        punched: uint64_t
        punch_errors: uint64_t
        if self.closed:
            raise ClosedError("the swap file is closed")
        file_bytes = os.fstat(f.fd).st_blocks * 512
        with cython.nogil:
            children_look()
            mutex_lock(cython.address(f.lock))
            size = f.map.words_n << (6 + f.map.granule_shift)
            used = f.used_bytes
            punched = f.punched_bytes
            punch_errors = f.punch_errors
            mutex_unlock(cython.address(f.lock))
        return {
            "directory": self.directory,
            "in_memory": bool(self.in_memory),
            "swap_max_bytes": f.bytes_max,
            "size_bytes": min(size, f.bytes_max),
            "used_bytes": used,
            "file_bytes": file_bytes,
            "writes": a64_load_rlx(cython.address(f.writes)),
            "reads": a64_load_rlx(cython.address(f.reads)),
            "write_errors": a64_load_rlx(cython.address(f.write_errors)),
            "read_errors": a64_load_rlx(cython.address(f.read_errors)),
            "written_bytes": a64_load_rlx(cython.address(f.written_bytes)),
            "read_bytes": a64_load_rlx(cython.address(f.read_bytes)),
            "punched_bytes": punched,
            "punch_errors": punch_errors,
        }

    def check_valid(self) -> None:
        """Compare every part of the map with every other; takes the lock for as long as it needs.

        Raises
        ------
        InternalError
            When two parts disagree, or `swap_free` was called with what was not allocated.
        """
        f: SwapFileP = cython.address(self.c)
        where: uint64_t = 0
        fault: int32_t = 0
        bad_frees: uint64_t = 0
        used_differs: cython.bint = False
        with cython.nogil:
            mutex_lock(cython.address(f.lock))
            if not f.closed:
                fault = map_check(cython.address(f.map), cython.address(where))
                used_differs = f.used_bytes != f.map.used << f.map.granule_shift
                bad_frees = f.bad_frees
            mutex_unlock(cython.address(f.lock))
        if fault:
            raise InternalError(f"swap file map: {_MAP_FAULTS[fault]} {where}")
        if used_differs:
            raise InternalError("swap file: used_bytes disagrees with the map")
        if bad_frees:
            raise InternalError(f"swap file: {bad_frees} frees of what was not allocated")

    def install_faults(self, rows: object, seed: int = 0) -> object:
        """Make transfers fail from now on, for tests; no rows: stop it.

        Parameters
        ----------
        rows : sequence of tuple
            As `coldmem.testing.FaultPlan.rows` makes them. Transfers are counted from here.
        seed : int
            Of chances and choices.

        Returns
        -------
        Faults or None
            Its `hits()` says how often each row has struck.
        """
        table: Faults
        rows = list(rows)
        if not rows:
            a64_store_rel(cython.address(self.c.faults), 0)
            return None
        table = Faults(rows, seed)
        self.fault_tables.append(table)
        a64_store_rel(cython.address(self.c.faults),
                      cython.cast(uint64_t, cython.address(table.c)))
        return table
