# A block device or file at an offset, past the page cache where it was opened with O_DIRECT.
from libc.stdint cimport int32_t, int64_t, uint64_t

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *to, size_t n, int64_t offset)
    ssize_t pwrite(int fd, const void *data, size_t n, int64_t offset)

cdef extern from "<linux/fs.h>" nogil:
    unsigned long BLKDISCARD

cdef extern from "<sys/ioctl.h>" nogil:
    int ioctl(int fd, unsigned long request, void *argument)

# Each: exactly n bytes, in one call: 0. Else -errno; -EIO for fewer bytes.
cdef int32_t direct_read(int32_t fd, void *to, uint64_t n, uint64_t offset) noexcept nogil
cdef int32_t direct_write(int32_t fd, const void *data, uint64_t n, uint64_t offset) noexcept nogil
cdef int32_t direct_discard(int32_t fd, uint64_t n, uint64_t offset) noexcept nogil
