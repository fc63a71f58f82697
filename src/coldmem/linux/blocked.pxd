# Signals that threads block.
from libc.stdint cimport int32_t
from posix.signal cimport siginfo_t
from posix.types cimport sigset_t

ctypedef void (*KernelHandler)(int, siginfo_t *, void *) noexcept nogil

cdef extern from "_signals.h" nogil:
    enum:
        SIGNAL_NEVER_BLOCKED
        KERNEL_RESTORER
        SI_QUEUE

    struct kernel_action:
        KernelHandler handler
        unsigned long flags
        unsigned long mask

    int kernel_sigaction(int number, kernel_action *to, kernel_action *old) noexcept
    int signal_thread(int thread, int number, void *word) noexcept
    int32_t unblock_number      # the signal; atomic
    kernel_action unblock_next
    void unblock_handler(int number, siginfo_t *info, void *context) noexcept
    int pthread_sigmask(int how, const sigset_t *set, sigset_t *old) noexcept

# In the calling thread. Safe in a signal handler.
cdef void unblock_here(int number) noexcept nogil
