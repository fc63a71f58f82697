# A 4-byte futex mutex with bounded spin, and a distributed reader-writer lock.
#
# The fast paths are inline here, as in a C header; the slow paths are in lock.py.
# Statistics (counting != 0) are kept beside the lock word. Mutex: guarded by the mutex itself.
# RwLock readers: relaxed atomics on the reader's own line.
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport (
    a32_cas, a32_fetch_add, a32_fetch_add_rel, a32_load, a32_xchg_rel, a64_fetch_add_rlx,
    cpu_number, futex_wake, likely,
)

cdef struct Mutex:              # 32 bytes
    int32_t word                # 0 free, 1 held, 2 held and somebody may sleep
    int32_t counting            # set before the lock is shared, never changed after
    uint64_t acquisitions
    uint64_t contended
    uint64_t wait_ns

cdef struct RwLine:             # one per CPU, a cache line pair each
    int32_t readers
    int32_t pad
    uint64_t acquisitions
    uint64_t contended
    uint64_t wait_ns
    uint64_t fill[12]

cdef struct RwLock:
    Mutex writer                # one writer at a time
    int32_t closed              # 1: a writer is in or waits, readers back off; 2: and some sleep
    int32_t lines_mask
    int32_t counting
    int32_t pad
    RwLine *lines

ctypedef Mutex *MutexP
ctypedef RwLock *RwLockP
ctypedef RwLine *RwLineP

cdef struct LockCounts:
    uint64_t acquisitions
    uint64_t contended
    uint64_t wait_ns

cdef void mutex_init(Mutex *m, bint counting) noexcept nogil
cdef void mutex_acquire(Mutex *m) noexcept nogil
cdef void mutex_lock_slow(Mutex *m) noexcept nogil
cdef void mutex_counts(Mutex *m, LockCounts *out) noexcept nogil

cdef int rw_init(RwLock *l, bint counting) noexcept nogil
cdef void rw_destroy(RwLock *l) noexcept nogil
cdef int32_t rw_read_lock_slow(RwLock *l, int32_t line) noexcept nogil
cdef void rw_write_lock(RwLock *l) noexcept nogil
cdef void rw_write_unlock(RwLock *l) noexcept nogil
cdef void rw_counts(RwLock *l, LockCounts *out) noexcept nogil


cdef inline bint mutex_trylock(Mutex *m) noexcept nogil:
    if a32_cas(&m.word, 0, 1):
        if m.counting:
            m.acquisitions += 1
        return True
    return False


cdef inline void mutex_lock(Mutex *m) noexcept nogil:
    if not likely(a32_cas(&m.word, 0, 1)):
        mutex_lock_slow(m)
    elif m.counting:
        m.acquisitions += 1


cdef inline void mutex_unlock(Mutex *m) noexcept nogil:
    if a32_xchg_rel(&m.word, 0) == 2:
        futex_wake(&m.word, 1)


# Returns the line to hand back to rw_read_unlock: the thread may have moved to another CPU by then.
cdef inline int32_t rw_read_lock(RwLock *l) noexcept nogil:
    cdef int32_t line = <int32_t> cpu_number() & l.lines_mask
    a32_fetch_add(&l.lines[line].readers, 1)
    if likely(a32_load(&l.closed) == 0):
        if l.counting:
            a64_fetch_add_rlx(&l.lines[line].acquisitions, 1)
        return line
    return rw_read_lock_slow(l, line)


cdef inline void rw_read_unlock(RwLock *l, int32_t line) noexcept nogil:
    a32_fetch_add_rel(&l.lines[line].readers, -1)
