# Calls about signals, where faults are delivered as signals.
from posix.signal cimport sigaction_t
from posix.types cimport sigset_t

from coldmem.linux.plt cimport PltHook, PltSeen

ctypedef const sigset_t *SetP
ctypedef const sigaction_t *ActionP
ctypedef void (*PlainHandler)(int) noexcept nogil
ctypedef void *(*StartFn)(void *) noexcept nogil

ctypedef int (*MaskFn)(int, const sigset_t *, sigset_t *) noexcept nogil
ctypedef int (*AttributeFn)(void *, const sigset_t *) noexcept nogil
ctypedef int (*AttributeGetFn)(const void *, sigset_t *) noexcept nogil
ctypedef int (*CreateFn)(void *, const void *, StartFn, void *) noexcept nogil
ctypedef int (*ActionFn)(int, const sigaction_t *, sigaction_t *) noexcept nogil
ctypedef PlainHandler (*SignalFn)(int, PlainHandler) noexcept nogil
ctypedef int (*SuspendFn)(const sigset_t *) noexcept nogil
ctypedef int (*PpollFn)(void *, unsigned long, const void *, const sigset_t *) noexcept nogil
ctypedef int (*PpollChkFn)(void *, unsigned long, const void *, const sigset_t *, size_t) noexcept nogil
ctypedef int (*PselectFn)(int, void *, void *, void *, const void *, const sigset_t *) noexcept nogil
ctypedef int (*EpollFn)(int, void *, int, int, const sigset_t *) noexcept nogil

# Look after them in the modules that are loaded. Only calls.py calls it.
cdef void sigcalls_put(PltSeen *seen) noexcept nogil

# The wrappers have the types of what they stand for.
cdef int _pthread_sigmask(int how, const sigset_t *to, sigset_t *old) noexcept nogil
cdef int _sigprocmask(int how, const sigset_t *to, sigset_t *old) noexcept nogil
cdef int _attr_setsigmask(void *attributes, const sigset_t *to) noexcept nogil
cdef int _pthread_create(void *thread, const void *attributes, StartFn start, void *word) noexcept nogil
cdef int _sigaction(int number, const sigaction_t *to, sigaction_t *old) noexcept nogil
cdef PlainHandler _signal(int number, PlainHandler handler) noexcept nogil
cdef int _sigsuspend(const sigset_t *mask) noexcept nogil
cdef int _ppoll(void *fds, unsigned long n, const void *timeout, const sigset_t *mask) noexcept nogil
cdef int _ppoll_chk(void *fds, unsigned long n, const void *timeout, const sigset_t *mask,
                    size_t room) noexcept nogil
cdef int _pselect(int n, void *r, void *w, void *e, const void *timeout, const sigset_t *mask
                  ) noexcept nogil
cdef int _epoll_pwait(int fd, void *events, int n, int timeout, const sigset_t *mask) noexcept nogil
