# What a swap file needs of a file system beyond open, pread and pwrite.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

# Give the disk space of a range back; it reads as zeros after. 0 or -errno.
cdef int32_t file_punch(int32_t fd, int64_t offset, uint64_t nbytes) noexcept nogil

# Read n bytes: how many there are, fewer only where the file ends; or -errno.
cdef int64_t file_read(int32_t fd, uint8_t *to, uint64_t n, int64_t offset) noexcept nogil

cdef extern from "<unistd.h>" nogil:
    ssize_t pread(int fd, void *to, size_t n, int64_t offset) noexcept

cdef extern from "<fcntl.h>" nogil:
    int FALLOC_FL_KEEP_SIZE
    int FALLOC_FL_PUNCH_HOLE
    int fallocate(int fd, int mode, int64_t offset, int64_t nbytes) noexcept

cdef extern from "<sys/vfs.h>" nogil:
    ctypedef struct statfs_t "struct statfs":
        long f_type
    int statfs(const char *path, statfs_t *out) noexcept
