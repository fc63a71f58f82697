# Processes: what C calls around a fork, and pipes by which one hears of another's end.
cdef extern from "<pthread.h>" nogil:
    int pthread_atfork(void (*prepare)() noexcept nogil, void (*parent)() noexcept nogil,
                       void (*child)() noexcept nogil)

cdef extern from "<unistd.h>" nogil:
    int pipe2(int *ends, int flags)

cdef extern from "<fcntl.h>" nogil:
    enum:
        O_CLOEXEC

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN

    struct pollfd:
        int fd
        short events
        short revents

    int poll(pollfd *fds, unsigned long n, int milliseconds)
