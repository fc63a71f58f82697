# Address space: reserve it, give its pages back, release it.
from libc.stdint cimport uint32_t, uint64_t

from coldmem.linux.atomic cimport iovec

cdef extern from "<sys/mman.h>" nogil:
    enum:
        MCL_ONFAULT
        MLOCK_ONFAULT
    int mlock2(const void *start, size_t nbytes, unsigned int flags)

cdef extern from "<sys/prctl.h>" nogil:
    int prctl(int option, unsigned long a, unsigned long b, unsigned long c, unsigned long d)

cdef void *memory_reserve(uint64_t nbytes) noexcept nogil
cdef void memory_release(void *start, uint64_t nbytes) noexcept nogil
# For what is large and filled whole: it begins at a huge page, and lies in such where there are any.
# NULL: there is none.
cdef void *memory_take(uint64_t nbytes) noexcept nogil
# Take the pages of a range now, in one call and not with a fault each: it will be written whole. Nothing
# happens before Linux 5.14, or where pages are larger than 4 KiB.
cdef void memory_populate(void *start, uint64_t nbytes) noexcept nogil
cdef void memory_return(void *start, uint64_t nbytes) noexcept nogil
# Ranges are sorted and joined in place; system calls made.
cdef uint32_t memory_dontneed(iovec *ranges, uint32_t count) noexcept nogil
# One range, in one system call.
cdef void memory_forget(void *start, uint64_t nbytes) noexcept nogil
# Any access to the range ends in SIGSEGV from now on.
cdef void memory_forbid(void *start, uint64_t nbytes) noexcept nogil
# Whether forked children have a copy of the range, or nothing there: any access ends in SIGSEGV.
cdef void memory_inherit(void *start, uint64_t nbytes, bint by_children) noexcept nogil
