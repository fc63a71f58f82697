# Declarations of _atomic.h: a field that threads share is int32_t or uint64_t, so that these fit.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "_atomic.h" nogil:
    int32_t a32_load_rlx(int32_t *p) noexcept
    int32_t a32_load_acq(int32_t *p) noexcept
    int32_t a32_load(int32_t *p) noexcept
    void a32_store_rlx(int32_t *p, int32_t v) noexcept
    void a32_store_rel(int32_t *p, int32_t v) noexcept
    void a32_store(int32_t *p, int32_t v) noexcept
    int32_t a32_fetch_add(int32_t *p, int32_t v) noexcept
    int32_t a32_fetch_add_acq(int32_t *p, int32_t v) noexcept
    int32_t a32_fetch_add_rel(int32_t *p, int32_t v) noexcept
    int32_t a32_fetch_add_acq_rel(int32_t *p, int32_t v) noexcept
    int32_t a32_xchg_acq(int32_t *p, int32_t v) noexcept
    int32_t a32_xchg_rel(int32_t *p, int32_t v) noexcept
    int32_t a32_xchg(int32_t *p, int32_t v) noexcept
    bint a32_cas(int32_t *p, int32_t old, int32_t new) noexcept

    uint64_t a64_load(uint64_t *p) noexcept
    uint64_t a64_load_rlx(uint64_t *p) noexcept
    uint64_t a64_load_acq(uint64_t *p) noexcept
    void a64_store_rlx(uint64_t *p, uint64_t v) noexcept
    void a64_store_rel(uint64_t *p, uint64_t v) noexcept
    uint64_t a64_fetch_add_rlx(uint64_t *p, uint64_t v) noexcept
    uint64_t a64_fetch_add_acq(uint64_t *p, uint64_t v) noexcept
    uint64_t a64_fetch_add_rel(uint64_t *p, uint64_t v) noexcept
    uint64_t a64_fetch_add(uint64_t *p, uint64_t v) noexcept
    uint64_t a64_fetch_and(uint64_t *p, uint64_t v) noexcept
    bint a64_cas(uint64_t *p, uint64_t old, uint64_t new) noexcept

    void cpu_relax() noexcept
    bint likely(bint x) noexcept
    bint unlikely(bint x) noexcept
    int ctz64(uint64_t x) noexcept
    int clz64(uint64_t x) noexcept
    int popcount64(uint64_t x) noexcept
    void prefetch(const void *p) noexcept
    int fault_was_write(void *context) noexcept
    void keep_errno(int value) noexcept
    void ordered_by_kernel_begin() noexcept
    void ordered_by_kernel_end() noexcept
    int userfaultfd_syscall(int flags) noexcept
    void copy_cold(uint8_t *to, const uint8_t *src, uint64_t n) noexcept
    uint64_t now_ns() noexcept
    uint32_t cpu_number() noexcept
    int cpus_configured() noexcept
    void futex_wait(int32_t *word, int32_t value, int64_t timeout_ns) noexcept
    void futex_wake(int32_t *word, int count) noexcept

cdef extern from "<sched.h>" nogil:
    int sched_yield() noexcept

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "_atomic.h" nogil:
    void *map_reserve(uint64_t bytes) noexcept
    int64_t advise_dontneed_many(iovec *ranges, uint32_t count) noexcept
