# Connected sockets, whole buffers at a time. The descriptor is blocking.
from libc.stdint cimport int64_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport iovec
from coldmem.linux.message cimport msghdr

cdef extern from "<sys/socket.h>" nogil:
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        SHUT_RD
        SHUT_RDWR
    ssize_t recv(int fd, void *to, size_t n, int flags)
    ssize_t sendmsg(int fd, const msghdr *message, int flags)
    int shutdown(int fd, int how)

ctypedef char *CharP

# Bytes received, 1 to n; 0: the other end will send no more; else -errno. With wait False: -EAGAIN
# when nothing has come yet.
cdef int64_t stream_receive(int fd, void *to, uint64_t n, bint wait) noexcept nogil
# Exactly n bytes: True. False: the stream ended before, or failed.
cdef bint stream_receive_all(int fd, void *to, uint64_t n) noexcept nogil
# All parts, in one call where the kernel takes them: 0 or -errno. The parts are changed.
cdef int64_t stream_send(int fd, iovec *parts, uint32_t count) noexcept nogil
# No more is received, or (both) neither received nor sent; whoever waits comes back.
cdef void stream_end(int fd, bint both) noexcept nogil
