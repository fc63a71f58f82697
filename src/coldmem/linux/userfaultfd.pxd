# userfaultfd: faults of a range of addresses, served by this process. The ABI is spelled out here,
# since the headers of many distributions are older than the kernels they run on.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

# What a userfaultfd may do.
cdef enum Rights:
    RIGHTS_NONE = 0
    RIGHTS_USER = 1             # faults of user code only: system calls on missing pages fail
    RIGHTS_FULL = 2             # those of the kernel too

cdef enum:
    FEATURE_WP = 1 << 0
    FEATURE_SIGBUS = 1 << 7
    FEATURE_THREAD_ID = 1 << 8
    FEATURE_POISON = 1 << 14
    FEATURE_MOVE = 1 << 16

cdef enum:
    FAULT_WRITE = 1             # the access was a write
    FAULT_WP = 2                # the page is there, but write-protected

cdef struct UffdApi:
    uint64_t api
    uint64_t features
    uint64_t ioctls

cdef struct UffdRange:
    uint64_t start
    uint64_t len

cdef struct UffdRegister:
    uint64_t start
    uint64_t len
    uint64_t mode
    uint64_t ioctls

cdef struct UffdCopy:
    uint64_t dst
    uint64_t src
    uint64_t len
    uint64_t mode
    int64_t copy

cdef struct UffdProtect:
    uint64_t start
    uint64_t len
    uint64_t mode

cdef struct UffdPoison:
    uint64_t start
    uint64_t len
    uint64_t mode
    int64_t updated

cdef struct UffdMessage:
    uint8_t event
    uint8_t fill0
    uint16_t fill1
    uint32_t fill2
    uint64_t flags
    uint64_t address
    uint64_t thread

# A userfaultfd with write protection, and with SIGBUS in place of messages if asked for: a file
# descriptor, or -errno. `rights` says what it may do.
cdef int uffd_open(bint sigbus, int32_t *rights) noexcept nogil
# Missing and write-protect faults of a range: 0 or -errno.
cdef int uffd_register(int fd, void *start, uint64_t nbytes) noexcept nogil
# Put pages there; write-protected if `protect`. Wakes who waits. 0 or -errno; a page that is there
# already is left as it is, and so is its protection.
cdef int uffd_copy(int fd, void *to, const void *data, uint64_t nbytes, bint protect) noexcept nogil
# Write-protect a range, or take that back and wake who waits. Pages that are not there do not mind.
cdef int uffd_protect(int fd, void *start, uint64_t nbytes, bint on) noexcept nogil
cdef int uffd_wake(int fd, void *start, uint64_t nbytes) noexcept nogil
# Whoever touches the range from now on gets SIGBUS, waiting threads included.
cdef int uffd_poison(int fd, void *start, uint64_t nbytes) noexcept nogil
# Wait for a fault: 1 with *address, *flags (FAULT_*) and the number of its thread, 0 for something else,
# -errno.
cdef int uffd_read(int fd, uint64_t *address, uint64_t *flags, uint32_t *thread) noexcept nogil
