# The core of the swap file. Callers take it from swapfile.pxd. All functions may be called by any thread, without the GIL.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from coldmem.linux.lock cimport Mutex
from coldmem.zswap.swapmap cimport SwapMap

cdef enum:
    PUNCH_BATCH = 16            # regions whose disk space goes back in one go

cdef struct LateFree:           # see swaphold.py
    uint64_t offset
    uint32_t n

ctypedef LateFree *LateFreeP

cdef struct SwapFileC:
    Mutex lock                  # guards the map and every field below it up to `fd`
    uint64_t used_bytes         # granules in use, in bytes; read without the lock as a hint (a64_load_rlx)
    SwapMap map
    uint64_t punched_bytes
    uint64_t punch_errors
    uint64_t bad_frees          # calls of swap_free that made no sense; check_valid reports them
    LateFree *later             # frees that wait until no forked child is left
    uint64_t later_n
    uint64_t later_room
    int32_t holds               # forked children that may still read; read without the lock as a hint
    uint32_t punch_batch        # constant; 0: this file's disk space never goes back
    int32_t punching            # regions are busy; also waited on with futex_wait
    int32_t closed              # set under the lock; read atomically without it
    int32_t inherited           # this is a forked child: see children.py. Set before it has threads
    int32_t fd                  # constant until closed
    uint32_t unit_bytes         # constant
    uint64_t bytes_max          # constant
    uint64_t faults             # atomic: FaultTable pointer, 0 in production
    SwapFileC *next             # of all that are open; lock of children.py
    uint64_t fill[8]            # what follows changes with every transfer: keep it off the lines above
    uint64_t started            # atomic: transfers begun
    uint64_t writes             # atomic: transfers ended, failed ones too
    uint64_t reads              # atomic: same
    uint64_t write_errors       # atomic
    uint64_t read_errors        # atomic
    uint64_t written_bytes      # atomic: of transfers that succeeded
    uint64_t read_bytes         # atomic: same

ctypedef SwapFileC *SwapFileP

# Reserve room for n bytes (n <= unit_bytes): the offset, or -ENOSPC when swap_max is reached or no
# run fits, -EINVAL for a bad n, -EBADF after close, -EROFS in a forked child.
cdef int64_t swap_alloc(SwapFileC *f, uint32_t n) noexcept nogil
# Give it back. n is the n of swap_alloc. Never while a transfer of that entry is under way.
cdef void swap_free(SwapFileC *f, int64_t offset, uint32_t n) noexcept nogil
# Bytes that an entry of n bytes occupies.
cdef uint32_t swap_charge(SwapFileC *f, uint32_t n) noexcept nogil
# Whole transfers (short ones are continued): 0 or -errno. Neighbouring entries may go in one.
cdef int32_t swap_write(SwapFileC *f, const uint8_t *src, uint64_t n, int64_t offset) noexcept nogil
cdef int32_t swap_read(SwapFileC *f, uint8_t *dst, uint64_t n, int64_t offset) noexcept nogil

# Give one batch of free regions back to the file system; regions given back.
cdef uint32_t swap_punch(SwapFileC *f) noexcept nogil
cdef void swap_close(SwapFileC *f) noexcept nogil
