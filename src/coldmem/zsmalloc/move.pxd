# What compaction and migration share: moving one object, and the locks to hold meanwhile.
from libc.stdint cimport int32_t, uint32_t

from coldmem.zsmalloc.arena cimport Zspage
from coldmem.zsmalloc.core cimport PoolC, SizeClass

# The locks that keep the objects of a class in place, those of who moves them: see core.py.
cdef void move_lock(PoolC *p, SizeClass *k) noexcept nogil
# Whether somebody waits for one of them.
cdef bint move_unlock(PoolC *p, SizeClass *k) noexcept nogil
# Whether the objects of a zspage may be moved now: False while one of them is being read. With
# "handle" always True, for there move_object finds out for each object. Under move_lock.
cdef bint zspage_try_write(PoolC *p, Zspage *z) noexcept nogil
cdef void zspage_end_write(PoolC *p, Zspage *z) noexcept nogil
# Move object `i` of zspage `source` into the first free object of zspage `target`, which must have
# one, unless somebody reads it. Under zspage_try_write of the source; neither is refiled.
cdef bint move_object(PoolC *p, SizeClass *k, uint32_t source, uint32_t i, uint32_t target) noexcept nogil
