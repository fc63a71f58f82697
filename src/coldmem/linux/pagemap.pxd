# What the kernel has in a range of this process's addresses.
from libc.stdint cimport int64_t, uint64_t

cdef extern from *:
    """
    #define COLDMEM_PM_PRESENT (1ull << 63)
    #define COLDMEM_PM_SWAPPED (1ull << 62)
    #define COLDMEM_PM_PROTECTED (1ull << 57)
    """
    const uint64_t PM_PRESENT "COLDMEM_PM_PRESENT"
    const uint64_t PM_SWAPPED "COLDMEM_PM_SWAPPED"
    const uint64_t PM_PROTECTED "COLDMEM_PM_PROTECTED"  # by userfaultfd

# A file descriptor or -errno.
cdef int pagemap_open() noexcept nogil
# One word per page of 4096 bytes from `start` on: 0 or -errno.
cdef int pagemap_read(int fd, const void *start, uint64_t pages, uint64_t *out) noexcept nogil
cdef void pagemap_close(int fd) noexcept nogil
