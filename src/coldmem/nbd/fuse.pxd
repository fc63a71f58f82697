# The device as a file: requests of the kernel are read, done and answered.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from coldmem.linux.fuse cimport fuse_in_header
from coldmem.nbd.block cimport DeviceC, Worker
from coldmem.nbd.device cimport Device

cdef enum:
    DATA_BYTES_MAX = 1048576    # of one read or write
    PAGES_MAX = 256             # the same in OS pages
    HEAD_BYTES = 4096           # room for what precedes the data of a write
    ZERO_BYTES_MAX = 1073741824 # done at a time

# What is the same for all threads of a mount. Constant once made.
cdef struct FileC:
    DeviceC *device
    uint64_t made_s             # since the epoch
    uint32_t uid
    uint32_t gid
    int32_t read_only
    int32_t fill

# What one serving thread needs; its own.
cdef struct Server:
    Worker worker
    int32_t fd
    int32_t fill
    uint8_t *request            # HEAD_BYTES + DATA_BYTES_MAX
    uint8_t *data               # DATA_BYTES_MAX

ctypedef Server *ServerP
ctypedef FileC *FileP
ctypedef uint8_t *U8P

cdef Server *server_new(FileC *f, int32_t fd) noexcept nogil
cdef void server_free(Server *s) noexcept nogil
cdef void file_loop(FileC *f, Server *s) noexcept nogil
# nbytes of `body` after the header of the answer; a negative error instead of it.
cdef void answer(Server *s, uint64_t unique, int32_t error, const void *body,
                 uint64_t nbytes) noexcept nogil
# One request, of which `nbytes` follow its header.
cdef void request_do(FileC *f, Server *s, fuse_in_header *head, uint8_t *body,
                     uint64_t nbytes) noexcept nogil
cdef void do_init(Server *s, uint64_t unique, uint8_t *body) noexcept nogil
cdef void do_attributes(FileC *f, Server *s, uint64_t unique) noexcept nogil
cdef void do_statfs(FileC *f, Server *s, uint64_t unique) noexcept nogil
cdef void do_open(FileC *f, Server *s, uint64_t unique, uint8_t *body) noexcept nogil
cdef void do_read(FileC *f, Server *s, uint64_t unique, uint8_t *body) noexcept nogil
cdef void do_write(FileC *f, Server *s, uint64_t unique, uint8_t *body,
                   uint64_t nbytes) noexcept nogil
# 0 or an errno.
cdef int32_t fallocate_range(FileC *f, Server *s, uint64_t start, uint64_t nbytes,
                             uint32_t mode) noexcept nogil
cdef int32_t setattr_fault(FileC *f, uint8_t *body) noexcept nogil

cdef class FileService:
    cdef FileC c
    cdef Device device          # kept alive
