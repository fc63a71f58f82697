# System calls on arrays where faults are delivered as signals: kept there while the call runs.
from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport FILE
from posix.types cimport off_t

from coldmem.linux.atomic cimport iovec
from coldmem.linux.message cimport msghdr, sockaddr
from coldmem.linux.plt cimport PltHook, PltSeen
from coldmem.memory.state cimport MemoryC

ctypedef unsigned int socklen_t
ctypedef sockaddr *AddressP
ctypedef msghdr *MessageP
ctypedef iovec *IovecP
ctypedef const iovec *IovecsP

ctypedef ssize_t (*ReadFn)(int, void *, size_t) noexcept nogil
ctypedef ssize_t (*PreadFn)(int, void *, size_t, off_t) noexcept nogil
ctypedef ssize_t (*RecvFn)(int, void *, size_t, int) noexcept nogil
ctypedef ssize_t (*RecvfromFn)(int, void *, size_t, int, void *, void *) noexcept nogil
ctypedef ssize_t (*SendtoFn)(int, void *, size_t, int, void *, socklen_t) noexcept nogil
ctypedef ssize_t (*ReadvFn)(int, const iovec *, int) noexcept nogil
ctypedef ssize_t (*PreadvFn)(int, const iovec *, int, off_t) noexcept nogil
ctypedef ssize_t (*Preadv2Fn)(int, const iovec *, int, off_t, int) noexcept nogil
ctypedef ssize_t (*MessageFn)(int, msghdr *, int) noexcept nogil
ctypedef size_t (*FreadFn)(void *, size_t, size_t, FILE *) noexcept nogil

# Look after the system calls of the modules that are loaded. Only calls.py calls it.
cdef void syscalls_put(PltSeen *seen) noexcept nogil

# Units of a buffer that are pinned for one call.
cdef struct Held:
    MemoryC *m
    uint64_t first
    uint64_t n

ctypedef Held *HeldP

# The wrappers have the types of what they stand for.
cdef ssize_t _read(int fd, void *buffer, size_t n) noexcept nogil
cdef ssize_t _read_chk(int fd, void *buffer, size_t n, size_t room) noexcept nogil
cdef ssize_t _write(int fd, void *buffer, size_t n) noexcept nogil
cdef ssize_t _pread(int fd, void *buffer, size_t n, off_t at) noexcept nogil
cdef ssize_t _pread_chk(int fd, void *buffer, size_t n, off_t at, size_t room) noexcept nogil
cdef ssize_t _pwrite(int fd, void *buffer, size_t n, off_t at) noexcept nogil
cdef ssize_t _recv(int fd, void *buffer, size_t n, int flags) noexcept nogil
cdef ssize_t _recv_chk(int fd, void *buffer, size_t n, size_t room, int flags) noexcept nogil
cdef ssize_t _send(int fd, void *buffer, size_t n, int flags) noexcept nogil
cdef ssize_t _recvfrom(int fd, void *buffer, size_t n, int flags, void *a, void *an) noexcept nogil
cdef ssize_t _sendto(int fd, void *buffer, size_t n, int flags, void *a, socklen_t an) noexcept nogil
cdef ssize_t _readv(int fd, const iovec *v, int n) noexcept nogil
cdef ssize_t _writev(int fd, const iovec *v, int n) noexcept nogil
cdef ssize_t _preadv(int fd, const iovec *v, int n, off_t at) noexcept nogil
cdef ssize_t _pwritev(int fd, const iovec *v, int n, off_t at) noexcept nogil
cdef ssize_t _preadv2(int fd, const iovec *v, int n, off_t at, int flags) noexcept nogil
cdef ssize_t _pwritev2(int fd, const iovec *v, int n, off_t at, int flags) noexcept nogil
cdef ssize_t _recvmsg(int fd, msghdr *message, int flags) noexcept nogil
cdef ssize_t _sendmsg(int fd, msghdr *message, int flags) noexcept nogil
cdef size_t _fread(void *buffer, size_t size, size_t count, FILE *file) noexcept nogil
cdef size_t _fread_chk(void *buffer, size_t room, size_t size, size_t count, FILE *file) noexcept nogil
cdef size_t _fwrite(void *buffer, size_t size, size_t count, FILE *file) noexcept nogil
