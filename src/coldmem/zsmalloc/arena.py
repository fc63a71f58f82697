"""Memory for zspages: runs of 1..16 units out of one reserved range of addresses.

Owns: the range, the descriptors of all zspages, and which of them are free.
Guarantees: a descriptor keeps its memory for life (type-stable, never unmapped before the pool is
destroyed), so a reader with an old location meets mapped memory. `used_bytes` of the budget never
exceeds its limit, not even for a moment. Free runs go back to the OS in batches, outside the lock:
those of up to a sixteenth of the limit (1 to 16 MiB) stay resident, since a run that is given back and
taken again costs a fault and a zeroed page per 4 KiB, as much as compressing what goes into it.
Locks: `Arena.lock`, a leaf: nothing else is taken under it. A run of n units is only ever used again
for n units; addresses are plentiful (the default range is 16 times the limit for each node, which
suffices for any mix of lengths), memory is what counts.

Nodes: the range is cut into equal parts that stand for NUMA nodes. They are simulated: the addresses
tell the node, and nothing binds the memory behind them to a part of the machine. A run stays on its
node for life, and each node has its own free runs.
"""

import cython
from cython.cimports.coldmem.linux.atomic import (
    a64_cas,
    a64_fetch_add_rlx,
    a64_load_rlx,
    a64_store_rlx,
    iovec,
)
from cython.cimports.coldmem.linux.lock import mutex_init, mutex_lock, mutex_unlock
from cython.cimports.coldmem.linux.memory import (
    memory_dontneed,
    memory_release,
    memory_reserve,
)
from cython.cimports.libc.stdint import uint32_t, uint64_t
from cython.cimports.libc.string import memset

DIRTY_SHARE = cython.declare(uint64_t, 16)  # of the limit
DIRTY_BYTES_LEAST = cython.declare(uint64_t, 1 << 20)
DIRTY_BYTES_MOST = cython.declare(uint64_t, 16 << 20)
BATCH = cython.declare(uint32_t, 256)


def arena_init(a, unit_bytes, capacity_bytes, nodes, budget, counting):
    """0, or -1 when the address space is refused. Each node has room for one longest run at least."""
    i: uint32_t
    memset(a, 0, cython.sizeof(Arena))
    mutex_init(cython.address(a.lock), counting)
    a.unit_bytes = unit_bytes
    a.capacity_bytes = capacity_bytes
    a.zspages_max = cython.cast(uint32_t, min(capacity_bytes // unit_bytes + 1, 1 << 28))
    a.zspages_end = 1
    a.node_count = nodes
    a.node_bytes = capacity_bytes // nodes // unit_bytes * unit_bytes
    for i in range(nodes):
        a.nodes[i].next_byte = i * a.node_bytes
        a.nodes[i].end_byte = a.nodes[i].next_byte + a.node_bytes
    a.budget = budget if budget != cython.NULL else cython.address(a.own_budget)
    a.mem = cython.cast(cython.p_uchar, memory_reserve(capacity_bytes))
    a.zspages = cython.cast(ZspageP, memory_reserve(a.zspages_max * cython.sizeof(Zspage)))
    if a.mem == cython.NULL or a.zspages == cython.NULL:
        arena_destroy(a)
        return -1
    return 0


def arena_destroy(a):
    if a.budget != cython.NULL:
        _count_dirty(a, -a.dirty_bytes)
    memory_release(a.mem, a.capacity_bytes)
    memory_release(a.zspages, a.zspages_max * cython.sizeof(Zspage))
    a.mem = cython.NULL
    a.zspages = cython.NULL


def budget_limit(b, limit_bytes):
    a64_store_rlx(cython.address(b.limit_bytes), limit_bytes)
    a64_store_rlx(
        cython.address(b.dirty_bytes_max),
        min(max(limit_bytes // DIRTY_SHARE, DIRTY_BYTES_LEAST), DIRTY_BYTES_MOST),
    )


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _count_dirty(a: ArenaP, nbytes: uint64_t) -> cython.void:
    """Arena lock held; the budget's sum spans arenas."""
    a.dirty_bytes += nbytes
    a64_fetch_add_rlx(cython.address(a.budget.dirty_bytes), nbytes)


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _dirty_room(b: BudgetP) -> uint64_t:
    """Bytes of free runs that may stay resident: not above the limit together with those in use."""
    used: uint64_t = a64_load_rlx(cython.address(b.used_bytes))
    limit: uint64_t = a64_load_rlx(cython.address(b.limit_bytes))
    room: uint64_t = limit - used if limit > used else 0
    most: uint64_t = a64_load_rlx(cython.address(b.dirty_bytes_max))
    # Below the least, batches would be too short to be worth a system call.
    return max(min(room, most), DIRTY_BYTES_LEAST)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _charge(b: BudgetP, nbytes: uint64_t) -> cython.bint:
    used: uint64_t = a64_load_rlx(cython.address(b.used_bytes))
    peak: uint64_t
    while True:
        if used + nbytes > a64_load_rlx(cython.address(b.limit_bytes)):
            return False
        if a64_cas(cython.address(b.used_bytes), used, used + nbytes):
            break
        used = a64_load_rlx(cython.address(b.used_bytes))
    used += nbytes
    peak = a64_load_rlx(cython.address(b.peak_bytes))
    while used > peak and not a64_cas(cython.address(b.peak_bytes), peak, used):
        peak = a64_load_rlx(cython.address(b.peak_bytes))
    return True


@cython.cfunc
@cython.nogil
@cython.inline
@cython.exceptval(check=False)
def _take_run(a: ArenaP, node: uint32_t, units: uint32_t, nbytes: uint64_t) -> uint32_t:
    """A free run of a node, or a new one at the end of its range; 0: there is none. Lock held."""
    n: ArenaNodeP = cython.address(a.nodes[node])
    z: uint32_t = n.dirty_free[units]
    if z:  # still resident: the cheapest
        n.dirty_free[units] = a.zspages[z].next
        _count_dirty(a, -nbytes)
    elif n.clean_free[units]:
        z = n.clean_free[units]
        n.clean_free[units] = a.zspages[z].next
    elif n.next_byte + nbytes <= n.end_byte and a.zspages_end < a.zspages_max:
        z = a.zspages_end
        a.zspages_end += 1
        a.zspages[z].mem = a.mem + n.next_byte
        a.zspages[z].units = units
        a.zspages[z].node = node
        n.next_byte += nbytes
    return z


def arena_get(a, units, node, elsewhere):
    z: uint32_t
    zp: ZspageP
    at: uint32_t = node
    nbytes: uint64_t = cython.cast(uint64_t, units) * a.unit_bytes
    if not _charge(a.budget, nbytes):
        return 0
    mutex_lock(cython.address(a.lock))
    z = _take_run(a, at, units, nbytes)
    while z == 0 and elsewhere:
        at = at + 1 if at + 1 < a.node_count else 0
        if at == node:
            break
        z = _take_run(a, at, units, nbytes)
    if z:
        zp = cython.address(a.zspages[z])
        zp.free = 0
        zp.prev = 0
        zp.next = 0
        a.nodes[at].units += units
    mutex_unlock(cython.address(a.lock))
    if z == 0:
        a64_fetch_add_rlx(cython.address(a.budget.used_bytes), -nbytes)
    return z


def arena_put(a, zspage):
    """Take back a zspage that nobody uses. The caller holds at most a pool or class lock."""
    zp: ZspageP = cython.address(a.zspages[zspage])
    n: ArenaNodeP = cython.address(a.nodes[zp.node])
    nbytes: uint64_t = cython.cast(uint64_t, zp.units) * a.unit_bytes
    batch: uint32_t = 0
    room: uint64_t
    mutex_lock(cython.address(a.lock))
    zp.next = n.dirty_free[zp.units]
    zp.free = 1
    n.dirty_free[zp.units] = zspage
    n.units -= zp.units
    _count_dirty(a, nbytes)
    a64_fetch_add_rlx(cython.address(a.budget.used_bytes), -nbytes)
    room = _dirty_room(a.budget)
    if a64_load_rlx(cython.address(a.budget.dirty_bytes)) > room:
        batch = _take_batch(a, room - max(room // 4, DIRTY_BYTES_LEAST // 2))
    mutex_unlock(cython.address(a.lock))
    if batch:
        _release(a, batch)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _take_batch(a: ArenaP, keep_bytes: uint64_t) -> uint32_t:
    """Unlink up to BATCH resident free runs, longest first, until the budget has no more than
    `keep_bytes` of them; a list linked by `next`. Lock held."""
    dirty: cython.pointer(uint64_t) = cython.address(a.budget.dirty_bytes)
    units: uint32_t
    i: uint32_t
    n: ArenaNodeP
    z: uint32_t
    first: uint32_t = 0
    count: uint32_t = 0
    for units in range(MAX_CHAIN, 0, -1):
        for i in range(a.node_count):
            n = cython.address(a.nodes[i])
            while n.dirty_free[units] and a64_load_rlx(dirty) > keep_bytes and count < BATCH:
                z = n.dirty_free[units]
                n.dirty_free[units] = a.zspages[z].next
                _count_dirty(a, -(cython.cast(uint64_t, units) * a.unit_bytes))
                a.zspages[z].next = first
                first = z
                count += 1
    return first


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _release(a: ArenaP, first: uint32_t) -> uint64_t:
    """Give the runs of a list back to the OS, then file them as clean. Bytes given back."""
    ranges: iovec[256]
    count: uint32_t = 0
    calls: uint32_t
    z: uint32_t = first
    after: uint32_t
    zp: ZspageP
    n: ArenaNodeP
    nbytes: uint64_t = 0
    while z:
        zp = cython.address(a.zspages[z])
        ranges[count].iov_base = zp.mem
        ranges[count].iov_len = cython.cast(uint64_t, zp.units) * a.unit_bytes
        nbytes += ranges[count].iov_len
        count += 1
        z = zp.next
    calls = memory_dontneed(ranges, count)
    mutex_lock(cython.address(a.lock))
    z = first
    while z:
        zp = cython.address(a.zspages[z])
        n = cython.address(a.nodes[zp.node])
        after = zp.next
        zp.next = n.clean_free[zp.units]
        n.clean_free[zp.units] = z
        z = after
    a.released_bytes += nbytes
    a.release_calls += calls
    mutex_unlock(cython.address(a.lock))
    return nbytes


def arena_trim(a):
    first: uint32_t
    total: uint64_t = 0
    while True:
        mutex_lock(cython.address(a.lock))
        first = _take_batch(a, 0)
        mutex_unlock(cython.address(a.lock))
        if first == 0:
            return total
        total += _release(a, first)
