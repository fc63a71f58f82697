# The native loops of `bench memory`: touches of pages, by whoever serves their faults.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.lab.gate cimport HIST_BUCKETS, GateC

ctypedef const uint8_t *constP
ctypedef uint8_t *U8P
ctypedef uint64_t *U64P

cdef enum:
    PAGE_BYTES = 4096

cdef enum Pattern:
    PATTERN_FILL = 0
    PATTERN_SEQUENTIAL = 1
    PATTERN_RANDOM = 2
    PATTERN_RANDOM_WRITE = 3
    PATTERN_REWRITE = 4
    PATTERN_HOT_SET = 5
    PATTERNS = 6

# Written by its thread only, read after that ended.
cdef struct TouchWorker:
    uint64_t rng
    uint64_t touches
    uint64_t faults             # touches that took longer than FAULT_NS
    uint64_t bad                # reads of another value than was written
    uint64_t ns                 # of all touches together
    uint64_t end_ns
    uint64_t fill[10]
    uint64_t faults_by_time[HIST_BUCKETS]

ctypedef TouchWorker *TouchWorkerP

cdef struct TouchC:
    uint8_t *base               # the region
    const uint8_t *corpus
    uint64_t pages
    uint64_t corpus_pages
    uint64_t *written           # per page: how often it was incremented; atomic
    uint32_t threads
    int32_t pattern
    uint64_t touches            # of a thread, where the pattern is random
    TouchWorker *workers
    GateC *gate

ctypedef TouchC *TouchP

cdef void touch_loop(TouchC *a, TouchWorker *w, uint32_t thread) noexcept nogil
cdef uint64_t touch_verify(TouchC *a, uint64_t *first_bad) noexcept nogil

cdef class TouchWork:
    cdef TouchC c
    cdef object keep            # region, corpus and gate, so that they outlive the loops

# A plain anonymous mapping with the buffer protocol: what the kernel alone manages.
cdef class PlainRegion:
    cdef void *start
    cdef Py_ssize_t nbytes
