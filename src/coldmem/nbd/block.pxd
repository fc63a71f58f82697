# A block device made of the units of a Zswap.
#
# Lock order: WorkContext.busy -> stripe -> those of zswap. Device.recorders_lock is a leaf.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.linux.lock cimport Mutex
from coldmem.nbd.record cimport Record, Recorder
from coldmem.zswap.state cimport WorkContext, ZswapC

cdef enum:
    STRIPES = 1024              # a power of two
    UNITS_PER_CONTEXT = 1024    # after so many units a context is given back and taken anew

cdef enum:                      # places in DeviceC.counts
    N_READ_BYTES = 0
    N_WRITTEN_BYTES = 1
    N_TRIMMED_BYTES = 2         # freed by trims and zeroes: whole units
    N_ENOSPC = 3                # writes that found no room
    N_EIO = 4                   # requests that the swap file or the codec failed
    N_ERRORS = 5                # all other refused requests
    N_CONNECTIONS = 6
    N_COMMANDS = 8              # and 8 more: requests by command
    N_ALL = 16

cdef struct DeviceC:
    # constant once made
    ZswapC *zswap
    uint64_t size_bytes
    uint32_t unit_bytes
    uint32_t unit_shift
    Mutex *stripes              # [unit & (STRIPES - 1)]: who changes a unit holds it
    int32_t recording
    int32_t fill0
    uint64_t start_ns
    Mutex recorders_lock        # guards the list of recorders
    Recorder *recorders
    uint64_t counts[N_ALL]      # atomic

ctypedef DeviceC *DeviceP
ctypedef const uint8_t *BytesP

# What one thread needs. Used by that thread only.
cdef struct Worker:
    DeviceC *device
    uint8_t *unit               # unit_bytes
    Recorder *recorder          # NULL: nothing is recorded

ctypedef Worker *WorkerP

# A run of bytes of a read, or of a status.
cdef struct Span:
    uint32_t start              # from the start of the request
    uint32_t length
    uint32_t state              # bits of NBD: SPAN_HOLE, SPAN_ZERO; 0: data

cdef enum:
    SPAN_HOLE = 1
    SPAN_ZERO = 2

ctypedef Span *SpanP

cdef struct Spans:
    Span *items
    uint32_t count
    uint32_t max

ctypedef Spans *SpansP

# 0, or -1: no memory.
cdef int worker_init(Worker *w, DeviceC *d) noexcept nogil
cdef void worker_destroy(Worker *w) noexcept nogil

# Each returns 0, or an errno; ranges are within the device. n > 0.
# `spans`, where not NULL, gets the runs of data and of zeroes; bytes of the latter are not written
# into `out`. *bad is the offset that could not be read.
cdef int32_t device_read(Worker *w, uint64_t offset, uint32_t n, uint8_t *out, Spans *spans,
                         uint64_t *bad) noexcept nogil
cdef int32_t device_write(Worker *w, uint64_t offset, uint32_t n, const uint8_t *data) noexcept nogil
# allocate: leave zeroes that are stored; else holes.
cdef int32_t device_zero(Worker *w, uint64_t offset, uint32_t n, bint allocate) noexcept nogil
cdef int32_t device_trim(Worker *w, uint64_t offset, uint32_t n) noexcept nogil
# What is where, from `offset` on, in as many spans as there is room for.
cdef int32_t device_status(Worker *w, uint64_t offset, uint32_t n, Spans *spans) noexcept nogil

# Parts of it -------------------------------------------------------------------
cdef int32_t errno_of(int32_t error) noexcept nogil
cdef void span_add(Spans *spans, uint32_t start, uint32_t length, uint32_t state) noexcept nogil
cdef int32_t read_unit(Worker *w, uint64_t unit, uint32_t at, uint32_t n, uint8_t *out,
                       bint skip_zeroes, WorkContext *x, uint32_t *state) noexcept nogil
# With the stripe held.
cdef int32_t put_unit(Worker *w, uint64_t unit, const uint8_t *data, WorkContext *x) noexcept nogil
# data NULL: zeroes.
cdef int32_t patch_unit(Worker *w, uint64_t unit, uint32_t at, uint32_t n, const uint8_t *data,
                        WorkContext *x) noexcept nogil
cdef int32_t change_unit(Worker *w, uint64_t unit, uint32_t at, uint32_t n, const uint8_t *data,
                         int32_t what, WorkContext *x) noexcept nogil
cdef int32_t change(Worker *w, uint64_t offset, uint32_t n, const uint8_t *data,
                    int32_t what) noexcept nogil
cdef int32_t clear_unit(Worker *w, uint64_t unit, WorkContext *x) noexcept nogil
