/* What Cython cannot say: atomics, a few system calls, the CPU number, the clock.
 * Orders are in the names: _rlx relaxed, _acq acquire, _rel release, none = sequentially consistent. */
#ifndef COLDMEM_ATOMIC_H
#define COLDMEM_ATOMIC_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#define a32_load_rlx(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define a32_load_acq(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define a32_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define a32_store_rlx(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define a32_store_rel(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define a32_store(p, v) __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define a32_fetch_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define a32_fetch_add_acq(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQUIRE)
#define a32_fetch_add_rel(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELEASE)
#define a32_fetch_add_acq_rel(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define a32_xchg_acq(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQUIRE)
#define a32_xchg_rel(p, v) __atomic_exchange_n((p), (v), __ATOMIC_RELEASE)
#define a32_xchg(p, v) __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)

#define a64_load(p) __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define a64_load_rlx(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define a64_load_acq(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define a64_store_rlx(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define a64_store_rel(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define a64_fetch_add_rlx(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define a64_fetch_add_acq(p, v) __atomic_fetch_add((p), (v), __ATOMIC_ACQUIRE)
#define a64_fetch_add_rel(p, v) __atomic_fetch_add((p), (v), __ATOMIC_RELEASE)
#define a64_fetch_add(p, v) __atomic_fetch_add((p), (v), __ATOMIC_SEQ_CST)
#define a64_fetch_and(p, v) __atomic_fetch_and((p), (v), __ATOMIC_SEQ_CST)

/* Compare-and-swap: 1 when *p was `old` and is now `new_`. Acquire-release. */
static inline int a32_cas(int32_t *p, int32_t old, int32_t new_) {
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline int a32u_cas(uint32_t *p, uint32_t old, uint32_t new_) {
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}
static inline int a64_cas(uint64_t *p, uint64_t old, uint64_t new_) {
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

#if defined(__x86_64__) || defined(__i386__)
#define cpu_relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define cpu_relax() __asm__ __volatile__("yield" ::: "memory")
#else
#define cpu_relax() __asm__ __volatile__("" ::: "memory")
#endif
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define ctz64(x) __builtin_ctzll(x)
#define clz64(x) __builtin_clzll(x)
#define popcount64(x) __builtin_popcountll(x)
#define prefetch(p) __builtin_prefetch(p)

static inline uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}
/* The CPU this thread runs on, a hint that may be stale at once. One load where glibc has rseq. */
static inline uint32_t cpu_number(void) {
    int cpu = sched_getcpu();
    return cpu < 0 ? 0u : (uint32_t)cpu;
}
static inline int cpus_configured(void) {
    long n = sysconf(_SC_NPROCESSORS_CONF);
    return n < 1 ? 1 : (int)n;
}
/* timeout_ns < 0 waits for ever. */
static inline void futex_wait(int32_t *word, int32_t value, int64_t timeout_ns) {
    struct timespec t;
    t.tv_sec = timeout_ns / 1000000000;
    t.tv_nsec = timeout_ns % 1000000000;
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, timeout_ns < 0 ? (void *)0 : &t, (void *)0, 0);
}
static inline void futex_wake(int32_t *word, int count) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, count, (void *)0, (void *)0, 0);
}
/* What a signal handler's context says of the access that failed: 1 a write, 0 a read, -1 not known. */
static inline int fault_was_write(void *context) {
#if defined(__x86_64__)
    return (int)(((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] >> 1 & 1);
#else
    (void)context;
    return -1;
#endif
}
/* Between these two, ThreadSanitizer takes no note of this thread's reads: of pages that a system call
 * has write-protected, which it does not know to be an order between the writers and us. */
#ifdef __SANITIZE_THREAD__
void AnnotateIgnoreReadsBegin(const char *file, int line);
void AnnotateIgnoreReadsEnd(const char *file, int line);
#define ordered_by_kernel_begin() AnnotateIgnoreReadsBegin(__FILE__, __LINE__)
#define ordered_by_kernel_end() AnnotateIgnoreReadsEnd(__FILE__, __LINE__)
#else
#define ordered_by_kernel_begin() ((void)0)
#define ordered_by_kernel_end() ((void)0)
#endif
static inline void keep_errno(int value) { errno = value; }
static inline int userfaultfd_syscall(int flags) {
#ifdef SYS_userfaultfd
    return (int)syscall(SYS_userfaultfd, flags);
#else
    (void)flags;
    errno = ENOSYS;
    return -1;
#endif
}
/* Copy to where nobody looks soon. Of much data, whole cache lines go past the caches, so that the old
 * content of the destination is not read in first. Less stays in the caches: it is often read soon.
 * Published by any release store that follows. */
#define COPY_COLD_MIN 4096
static inline void copy_cold(uint8_t *to, const uint8_t *from, uint64_t n) {
#ifdef __SSE2__
    uint64_t head = -(uintptr_t)to & 63, i;
    if (n >= COPY_COLD_MIN) {
        memcpy(to, from, head);
        to += head, from += head, n -= head;
        for (; n >= 64; n -= 64, to += 64, from += 64)
            for (i = 0; i < 64; i += 16)
                _mm_stream_si128((__m128i *)(to + i), _mm_loadu_si128((const __m128i *)(from + i)));
        _mm_sfence();
    }
#endif
    memcpy(to, from, n);
}
/* Address space without memory; NULL when refused. Pages appear when touched. */
static inline void *map_reserve(uint64_t bytes) {
    void *p = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? (void *)0 : p;
}
/* Drop the pages of `count` ranges of this process in one call: bytes done, or -errno. Linux 6.13 on. */
static inline int64_t advise_dontneed_many(struct iovec *ranges, uint32_t count) {
#ifdef SYS_process_madvise
    static int self = -1; /* a pidfd of this process; -2: the kernel refused */
    int fd = __atomic_load_n(&self, __ATOMIC_RELAXED);
    if (fd == -1) {
        int expected = -1;
        fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
        if (fd < 0) fd = -2;
        if (!__atomic_compare_exchange_n(&self, &expected, fd, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
            if (fd >= 0) close(fd);
            fd = expected;
        }
    }
    if (fd < 0) return -ENOSYS;
    int64_t n = syscall(SYS_process_madvise, fd, ranges, (long)count, MADV_DONTNEED, 0);
    return n < 0 ? -errno : n;
#else
    (void)ranges; (void)count;
    return -ENOSYS;
#endif
}
#endif
