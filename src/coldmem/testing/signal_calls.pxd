# A C program's ways to block signals and to handle them.
from libc.stdint cimport uint8_t, uint64_t
from posix.signal cimport sigaction_t, siginfo_t
from posix.types cimport sigset_t

ctypedef const uint8_t *BytesP
ctypedef void *(*StartFn)(void *) noexcept nogil
ctypedef void (*InfoHandler)(int, siginfo_t *, void *) noexcept nogil
ctypedef void (*PlainHandler)(int) noexcept nogil

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_attr_t:
        pass
    int pthread_create(pthread_t *, const pthread_attr_t *, StartFn, void *) noexcept
    int pthread_join(pthread_t, void **) noexcept
    int pthread_attr_init(pthread_attr_t *) noexcept
    int pthread_attr_destroy(pthread_attr_t *) noexcept
    int pthread_attr_setsigmask_np(pthread_attr_t *, const sigset_t *) noexcept

cdef extern from "<signal.h>" nogil:
    int pthread_sigmask(int, const sigset_t *, sigset_t *) noexcept
    PlainHandler c_signal "signal"(int, PlainHandler) noexcept
    int c_sigaction "sigaction"(int, const sigaction_t *, sigaction_t *) noexcept
    int c_sigprocmask "sigprocmask"(int, const sigset_t *, sigset_t *) noexcept
    int c_sigsuspend "sigsuspend"(const sigset_t *) noexcept
    int c_raise "raise"(int) noexcept

cdef extern from "<poll.h>" nogil:
    int ppoll(void *, unsigned long, const void *, const sigset_t *) noexcept

cdef extern from "<sys/select.h>" nogil:
    int pselect(int, void *, void *, void *, const void *, const sigset_t *) noexcept

cdef extern from "<sys/epoll.h>" nogil:
    struct epoll_event:
        pass
    int epoll_create1(int) noexcept
    int epoll_pwait(int, epoll_event *, int, int, const sigset_t *) noexcept

cdef extern from "<unistd.h>" nogil:
    int ftruncate(int, long) noexcept
    int close(int) noexcept

# What a thread or a handler is to read, and what it found.
cdef struct Reading:
    BytesP at
    uint64_t n
    uint64_t sum
    int self_block              # the thread blocks all signals by itself

ctypedef Reading *ReadingP
