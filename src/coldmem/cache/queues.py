"""Eviction: which entry of a shard leaves RAM next.

S3-FIFO (Yang et al., SOSP 2023) by bytes. What is new goes to a small queue; what is hit there before
its end moves on to the main queue, the rest is evicted and remembered in a ghost table; what comes back
while it is remembered goes to the main queue at once. In the main queue each hit, up to three, buys one
more round. Hits only count; no list is touched.
The small queue's share adapts between 10 and 60 %: every so often the shares of entries evicted from
the small and from the main queue that came back are compared, and the queue that lost more of what was
wanted grows. Fixed at a tenth it does badly where things are produced, then read once.

LRU: one queue; a hit moves the entry to its new end.

Locks: the shard's, held by the caller.
"""

import cython
from cython.cimports.coldmem.cache.body import entry_weight
from cython.cimports.coldmem.cache.state import (
    POLICY_EXTERNAL,
    POLICY_LRU,
    Q_MAIN,
    Q_NONE,
    Q_SMALL,
    U64P,
    EntryP,
    FifoP,
    entry_at,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t

SHARE_LEAST = cython.declare(uint32_t, 102)  # 10 % and 60 %, in 1/1024
SHARE_MOST = cython.declare(uint32_t, 614)
SHARE_STEP = cython.declare(uint32_t, 26)
USE_MAX = cython.declare(uint32_t, 3)
GHOST_WAYS = cython.declare(uint32_t, 4)
CLOCK_MASK = cython.declare(uint32_t, 0x7FFFFFFF)


# -- lists -----------------------------------------------------------------------------------------
def queue_push(c, s, i, queue):
    q: FifoP = cython.address(s.queues[queue])
    e: EntryP = entry_at(s, i)
    e.queue = queue
    e.prev = 0
    e.next = q.newest
    if q.newest:
        entry_at(s, q.newest).prev = i
    else:
        q.oldest = i
    q.newest = i
    q.bytes += entry_weight(c, e)
    q.count += 1


def queue_push_oldest(c, s, i, queue):
    """To the end that leaves first: for a victim that could not go."""
    q: FifoP = cython.address(s.queues[queue])
    e: EntryP = entry_at(s, i)
    e.queue = queue
    e.next = 0
    e.prev = q.oldest
    if q.oldest:
        entry_at(s, q.oldest).next = i
    else:
        q.newest = i
    q.oldest = i
    q.bytes += entry_weight(c, e)
    q.count += 1


def queue_drop(c, s, i):
    e: EntryP = entry_at(s, i)
    q: FifoP = cython.address(s.queues[e.queue])
    if e.queue == Q_NONE:
        return
    if e.prev:
        entry_at(s, e.prev).next = e.next
    else:
        q.newest = e.next
    if e.next:
        entry_at(s, e.next).prev = e.prev
    else:
        q.oldest = e.prev
    q.bytes -= entry_weight(c, e)
    q.count -= 1
    e.queue = Q_NONE


# -- policy ----------------------------------------------------------------------------------------
def queue_new(c, s, i, known):
    e: EntryP = entry_at(s, i)
    was_main: uint32_t = 0
    e.use = 0
    if c.policy == POLICY_LRU or known:
        queue_push(c, s, i, Q_MAIN)
    elif _ghost_take(s, e.hash, cython.address(was_main)):
        s.back[was_main] += 1
        queue_push(c, s, i, Q_MAIN)
    else:
        queue_push(c, s, i, Q_SMALL)


def queue_hit(c, s, i):
    e: EntryP = entry_at(s, i)
    if e.use < USE_MAX:
        e.use += 1
    if c.policy == POLICY_LRU and e.queue == Q_MAIN and e.prev:
        queue_drop(c, s, i)
        queue_push(c, s, i, Q_MAIN)


def queue_victim(c, s):
    small: FifoP = cython.address(s.queues[Q_SMALL])
    main: FifoP = cython.address(s.queues[Q_MAIN])
    i: uint32_t
    e: EntryP
    if c.policy == POLICY_LRU:
        i = main.oldest if main.oldest else small.oldest
        if i:
            queue_drop(c, s, i)
        return i
    while True:
        # Each round moves one from small to main or takes a use away, so it ends.
        if small.oldest and (main.oldest == 0 or
                             small.bytes * 1024 >= (small.bytes + main.bytes) * s.share):
            i = small.oldest
            e = entry_at(s, i)
            queue_drop(c, s, i)
            if e.use and c.policy != POLICY_EXTERNAL:
                e.use = 0
                queue_push(c, s, i, Q_MAIN)
                continue
            _ghost_put(c, s, e.hash, 0)
            return i
        i = main.oldest
        if i == 0:
            return 0
        e = entry_at(s, i)
        queue_drop(c, s, i)
        if e.use and c.policy != POLICY_EXTERNAL:
            e.use -= 1
            queue_push(c, s, i, Q_MAIN)
            continue
        _ghost_put(c, s, e.hash, 1)
        return i


# -- ghosts ----------------------------------------------------------------------------------------
def _ghost_take(s, hash, was_main):
    at: U64P
    w: uint32_t
    word: uint64_t
    at = s.ghost + (hash & s.mask & ~(GHOST_WAYS - 1))
    for w in range(GHOST_WAYS):
        word = at[w]
        if word != 0 and word >> 32 == hash:
            at[w] = 0
            # Remembered for as many evictions as there are entries.
            if ((s.clock - cython.cast(uint32_t, word)) & CLOCK_MASK) > s.count:
                return False
            was_main[0] = cython.cast(uint32_t, word >> 31) & 1
            return True
    return False


def _ghost_put(c, s, hash, was_main):
    at: U64P
    w: uint32_t
    age: uint32_t
    worst: uint32_t = 0
    place: uint32_t = 0
    s.gone[was_main] += 1
    s.clock = (s.clock + 1) & CLOCK_MASK
    if s.gone[0] + s.gone[1] > 1024 and s.gone[0] + s.gone[1] > s.count // 4:
        _adapt(s)
    at = s.ghost + (hash & s.mask & ~(GHOST_WAYS - 1))
    for w in range(GHOST_WAYS):
        if at[w] == 0:
            place = w
            break
        age = (s.clock - cython.cast(uint32_t, at[w])) & CLOCK_MASK
        if age >= worst:
            worst = age
            place = w
    at[place] = cython.cast(uint64_t, hash) << 32 | cython.cast(uint64_t, was_main) << 31 | s.clock


def _adapt(s):
    """The queue of whose evicted entries a larger part came back gets more room."""
    small: uint64_t = cython.cast(uint64_t, s.back[0]) * (s.gone[1] + 1)
    main: uint64_t = cython.cast(uint64_t, s.back[1]) * (s.gone[0] + 1)
    if small > main and s.share + SHARE_STEP <= SHARE_MOST:
        s.share += SHARE_STEP
    elif main > small and s.share >= SHARE_LEAST + SHARE_STEP:
        s.share -= SHARE_STEP
    s.gone[0] = s.gone[1] = s.back[0] = s.back[1] = 0
