# Objects within a zspage, and the fullness lists of a class. All need the lock of the class.
#
# Header of an object (8 bytes): handle index << 1 | 1 while allocated, next free object << 1 while
# free. A huge zspage (one object that fills one unit) keeps its header in the descriptor.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from coldmem.linux.atomic cimport a32_store_rel, a64_store_rlx, clz64, ctz64
from coldmem.zsmalloc.arena cimport Zspage
from coldmem.zsmalloc.core cimport PoolC, SizeClass

cdef enum:
    GROUP_EMPTY = 0
    GROUP_FULL = 11

cdef inline uint64_t *object_header(SizeClass *k, Zspage *z, uint32_t i) noexcept nogil:
    if k.huge:
        return &z.huge_handle
    return <uint64_t *> (z.mem + <uint64_t> i * k.size)

cdef inline uint8_t *object_payload(SizeClass *k, Zspage *z, uint32_t i) noexcept nogil:
    return z.mem + <uint64_t> i * k.size + (0 if k.huge else 8)

# 0 empty, 1..10 by floor(10 * inuse / objs) + 1, 11 full.
cdef inline uint32_t fullness(SizeClass *k, uint32_t inuse) noexcept nogil:
    if inuse == 0:
        return GROUP_EMPTY
    if inuse == k.objs:
        return GROUP_FULL
    return 1 + inuse * 10 // k.objs

cdef inline void list_add(PoolC *p, SizeClass *k, uint32_t z, uint32_t group) noexcept nogil:
    cdef Zspage *zp = &p.arena.zspages[z]
    zp.group = group
    zp.prev = 0
    zp.next = k.head[group]
    if zp.next:
        p.arena.zspages[zp.next].prev = z
    k.head[group] = z
    k.count[group] += 1
    k.nonempty |= <uint32_t> 1 << group

cdef inline void list_del(PoolC *p, SizeClass *k, uint32_t z) noexcept nogil:
    cdef Zspage *zp = &p.arena.zspages[z]
    if zp.prev:
        p.arena.zspages[zp.prev].next = zp.next
    else:
        k.head[zp.group] = zp.next
        if zp.next == 0:
            k.nonempty &= ~(<uint32_t> 1 << zp.group)
    if zp.next:
        p.arena.zspages[zp.next].prev = zp.prev
    k.count[zp.group] -= 1

# A class gets a zspage, or gives it up. `owner` lets migration find the class of any zspage of the
# arena; it is right for who holds the lock of that class.
cdef inline void zspage_enter(SizeClass *k, Zspage *z) noexcept nogil:
    a64_store_rlx(&k.zspages, k.zspages + 1)
    a32_store_rel(&z.owner, <int32_t> k.index + 1)

cdef inline void zspage_leave(SizeClass *k, Zspage *z) noexcept nogil:
    a64_store_rlx(&k.zspages, k.zspages - 1)
    a32_store_rel(&z.owner, 0)

# Into the list that its use asks for; that group.
cdef inline uint32_t refile(PoolC *p, SizeClass *k, uint32_t z) noexcept nogil:
    cdef Zspage *zp = &p.arena.zspages[z]
    cdef uint32_t group = fullness(k, zp.inuse)
    if group != zp.group:
        list_del(p, k, z)
        list_add(p, k, z, group)
    return group

# Fullest zspage with a free object, or 0.
cdef inline uint32_t find_fullest(SizeClass *k) noexcept nogil:
    cdef uint32_t groups = k.nonempty & 0x7FF
    return k.head[63 - clz64(groups)] if groups else 0

# Emptiest zspage with an object and not full, or 0.
cdef inline uint32_t find_emptiest(SizeClass *k) noexcept nogil:
    cdef uint32_t groups = k.nonempty & 0x7FE
    return k.head[ctz64(groups)] if groups else 0

cdef inline void format_zspage(SizeClass *k, Zspage *z) noexcept nogil:
    cdef uint32_t i
    z.inuse = 0
    z.freeobj = 0
    z.klass = k.index
    for i in range(k.objs):
        object_header(k, z, i)[0] = <uint64_t> (i + 1) << 1

# Take the first free object for a handle: its number.
cdef inline uint32_t object_take(SizeClass *k, Zspage *z, uint32_t handle) noexcept nogil:
    cdef uint32_t i = z.freeobj
    cdef uint64_t *header = object_header(k, z, i)
    z.freeobj = <uint32_t> (header[0] >> 1)
    header[0] = (<uint64_t> handle << 1) | 1
    z.inuse += 1
    return i

cdef inline void object_give(SizeClass *k, Zspage *z, uint32_t i) noexcept nogil:
    object_header(k, z, i)[0] = <uint64_t> z.freeobj << 1
    z.freeobj = i
    z.inuse -= 1
