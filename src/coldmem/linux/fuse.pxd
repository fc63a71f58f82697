# The protocol of FUSE (linux/fuse.h), as far as one file needs it.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport iovec

cdef extern from "<linux/fuse.h>" nogil:
    cdef struct fuse_in_header:
        uint32_t len
        uint32_t opcode
        uint64_t unique
        uint64_t nodeid

    cdef struct fuse_out_header:
        uint32_t len
        int32_t error
        uint64_t unique

    cdef struct fuse_init_in:
        uint32_t major
        uint32_t minor
        uint32_t max_readahead
        uint32_t flags

    cdef struct fuse_init_out:
        uint32_t major
        uint32_t minor
        uint32_t max_readahead
        uint32_t flags
        uint16_t max_background
        uint16_t congestion_threshold
        uint32_t max_write
        uint32_t time_gran
        uint16_t max_pages

    cdef struct fuse_attr:
        uint64_t ino
        uint64_t size
        uint64_t blocks
        uint64_t atime
        uint64_t mtime
        uint64_t ctime
        uint32_t mode
        uint32_t nlink
        uint32_t uid
        uint32_t gid
        uint32_t blksize

    cdef struct fuse_attr_out:
        uint64_t attr_valid
        fuse_attr attr

    cdef struct fuse_setattr_in:
        uint32_t valid
        uint64_t size

    cdef struct fuse_open_in:
        uint32_t flags

    cdef struct fuse_open_out:
        uint64_t fh
        uint32_t open_flags

    cdef struct fuse_read_in:
        uint64_t offset
        uint32_t size

    cdef struct fuse_write_in:
        uint64_t offset
        uint32_t size

    cdef struct fuse_write_out:
        uint32_t size

    cdef struct fuse_fallocate_in:
        uint64_t offset
        uint64_t length
        uint32_t mode

    cdef struct fuse_kstatfs:
        uint64_t blocks
        uint64_t files
        uint32_t bsize
        uint32_t namelen
        uint32_t frsize

    cdef struct fuse_statfs_out:
        fuse_kstatfs st

    enum:
        FUSE_KERNEL_VERSION
        FUSE_FORGET
        FUSE_GETATTR
        FUSE_SETATTR
        FUSE_OPEN
        FUSE_READ
        FUSE_WRITE
        FUSE_STATFS
        FUSE_RELEASE
        FUSE_FSYNC
        FUSE_FLUSH
        FUSE_INIT
        FUSE_ACCESS
        FUSE_INTERRUPT
        FUSE_DESTROY
        FUSE_BATCH_FORGET
        FUSE_FALLOCATE
        FUSE_ASYNC_READ
        FUSE_BIG_WRITES
        FUSE_ASYNC_DIO
        FUSE_MAX_PAGES
        FATTR_MODE
        FATTR_UID
        FATTR_GID
        FATTR_SIZE
        FOPEN_DIRECT_IO

cdef extern from "<sys/uio.h>" nogil:
    ssize_t readv(int fd, const iovec *parts, int count)
    ssize_t writev(int fd, const iovec *parts, int count)

ctypedef fuse_in_header *InHeaderP
ctypedef fuse_init_in *InitInP
ctypedef fuse_setattr_in *SetattrInP
ctypedef fuse_open_in *OpenInP
ctypedef fuse_read_in *ReadInP
ctypedef fuse_write_in *WriteInP
ctypedef fuse_fallocate_in *FallocateInP

# A whole request: its bytes, or -errno. -ENODEV: the mount is gone.
cdef int64_t fuse_receive(int fd, void *to, uint64_t n) noexcept nogil
# 0 or -errno; -ENOENT where nobody waits for the answer any more.
cdef int32_t fuse_answer(int fd, iovec *parts, uint32_t count) noexcept nogil
