"""Records of what the threads of a server did, and the trace that they add up to.

Owns: the chunks of a recorder. Guarantees: a record costs a clock reading and 16 bytes, and takes no
lock; what finds no memory is counted. Assumes: one thread writes to a recorder, and it is read when
that thread has ended.
"""

import cython
from cython.cimports.coldmem.linux.atomic import now_ns, unlikely
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.stdlib import calloc, free, malloc


def recorder_new(start_ns, thread):
    r: RecorderP = cython.cast(RecorderP, calloc(1, cython.sizeof(Recorder)))
    if r != cython.NULL:
        r.start_ns = start_ns
        r.thread = thread
    return r


def recorder_free(r):
    c: ChunkP = r.first
    following: ChunkP
    while c != cython.NULL:
        following = c.next
        free(c)
        c = following
    free(r)


def record_add(r, op, slot, nbytes):
    c: ChunkP = r.last
    p: RecordP
    if unlikely(c == cython.NULL or c.used == RECORDS_PER_CHUNK):
        c = cython.cast(ChunkP, malloc(cython.sizeof(Chunk)))
        if c == cython.NULL:
            r.dropped += 1
            return
        c.next = cython.NULL
        c.used = 0
        if r.last == cython.NULL:
            r.first = c
        else:
            r.last.next = c
        r.last = c
    p = c.records + c.used
    p.time_ns = now_ns() - r.start_ns
    p.slot = cython.cast(uint32_t, slot)
    p.what = (op << RECORD_OP_SHIFT) | nbytes
    c.used += 1
