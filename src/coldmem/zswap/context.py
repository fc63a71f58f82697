"""Working contexts: scratch memory for one call at a time, and the door of a Zswap.

Owns: the contexts, their buffers, and the working memory that codecs gave us for them.
Guarantees: a context has one holder. Every call that touches the tables of a Zswap holds one. So
whoever has closed the door by holding all of them is alone, and closing costs the calls nothing: no
count of who is inside, no reference.
Assumes: a thread holds at most one, and never takes one while it holds a lock.

A thread begins its search at the number of its CPU, so contexts are warm and rarely contended. There
are 64; buffers are made when a context is first taken, so a process with few threads has few.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a32_cas,
    a32_load_acq,
    a32_load_rlx,
    a32_store,
    a32_store_rel,
    cpu_number,
    futex_wait,
    futex_wake,
    unlikely,
)
from cython.cimports.coldmem.zswap.state import CODECS_MAX, CONTEXTS_MAX, WorkContext, WorkContextP
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.stdlib import free, malloc
from cython.cimports.libc.string import memset
from cython.cimports.posix.stdlib import posix_memalign

SLACK_BYTES = cython.declare(cython.int, 64)
# Somebody who gives a context back does not look for waiters (that would cost a fence per call), so
# they look again by themselves. It takes more than 64 threads in calls at once to get here.
WAIT_NS = cython.declare(cython.longlong, 200_000)
DOOR_NS = cython.declare(cython.longlong, 10_000_000)


def contexts_init(z):
    """0, or -1 when there is no memory."""
    p: cython.p_void = cython.NULL
    i: uint32_t
    if posix_memalign(cython.address(p), 128, CONTEXTS_MAX * cython.sizeof(WorkContext)) != 0:
        return -1
    memset(p, 0, CONTEXTS_MAX * cython.sizeof(WorkContext))
    z.contexts = cython.cast(WorkContextP, p)
    for i in range(CONTEXTS_MAX):
        z.contexts[i].index = i
    return 0


def contexts_free_buffers(z):
    i: uint32_t
    id: uint32_t
    for id in range(CODECS_MAX):
        contexts_drop_codec(z, id)
    for i in range(CONTEXTS_MAX):
        free(z.contexts[i].scratch)
        free(z.contexts[i].batch)
        z.contexts[i].scratch = cython.NULL
        z.contexts[i].batch = cython.NULL


def contexts_destroy(z):
    free(z.contexts)
    z.contexts = cython.NULL


def context_get(z):
    w: WorkContextP
    i: uint32_t
    at: uint32_t
    p: cython.p_void
    while True:
        if unlikely(a32_load_acq(cython.address(z.door))):
            if a32_load_acq(cython.address(z.closed)):
                return cython.NULL
            futex_wait(cython.address(z.door), 1, DOOR_NS)
            continue
        at = cpu_number()
        for i in range(CONTEXTS_MAX):
            w = z.contexts + ((at + i) & (CONTEXTS_MAX - 1))
            if a32_load_rlx(cython.address(w.busy)) == 0 and a32_cas(cython.address(w.busy), 0, 1):
                if w.scratch == cython.NULL:
                    p = malloc(z.unit_bytes + SLACK_BYTES)
                    if p == cython.NULL:
                        context_put(z, w)
                        break
                    w.scratch = cython.cast(U8P, p)
                return w
        futex_wait(cython.address(z.never), 0, WAIT_NS)


def context_codec(z, w, id, failed):
    if w.codec_context[id] == cython.NULL:
        w.codec_context[id] = z.codecs[id].context_new(z.codecs[id].self, z.unit_bytes)
        if w.codec_context[id] == cython.NULL:
            failed[0] = 1
    return w.codec_context[id]


def context_batch(z, w):
    if w.batch == cython.NULL:
        w.batch = cython.cast(U8P, malloc(z.batch_bytes))
    return w.batch != cython.NULL


def contexts_stop(z):
    """With Zswap.admin held, so that two never hold half of the contexts each."""
    i: uint32_t
    a32_store(cython.address(z.door), 1)  # or busy callers would go on taking them from us
    for i in range(CONTEXTS_MAX):
        while not a32_cas(cython.address(z.contexts[i].busy), 0, 1):
            futex_wait(cython.address(z.never), 0, WAIT_NS)


def contexts_resume(z):
    i: uint32_t
    for i in range(CONTEXTS_MAX):
        a32_store_rel(cython.address(z.contexts[i].busy), 0)
    a32_store(cython.address(z.door), 0)
    futex_wake(cython.address(z.door), 0x7FFFFFFF)


def contexts_drop_codec(z, id):
    """Give back what codec `id` made for each context. By whoever is alone."""
    i: uint32_t
    for i in range(CONTEXTS_MAX):
        if z.contexts[i].codec_context[id] != cython.NULL:
            z.codecs[id].context_free(z.contexts[i].codec_context[id])
            z.contexts[i].codec_context[id] = cython.NULL
