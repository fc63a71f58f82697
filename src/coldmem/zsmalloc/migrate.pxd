# Page migration: zspages change their simulated NUMA node.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from coldmem.zsmalloc.core cimport PoolC

cdef enum Way:
    GOING = 0
    ARRIVED = 1                 # the source is empty and off its list
    BUSY = 2                    # somebody reads in the source
    GONE = 3                    # others have freed the source meanwhile
    REFUSED = 4                 # no room for a copy

# A zspage on its way to another node.
cdef struct Trip:
    uint32_t source
    uint32_t target             # 0: none yet
    uint32_t start              # next object of the source to look at
    bint listed                 # the target is on a list; else only this trip knows it

# Move zspages to `node`: those on `origin`, or on any other node if that is -1. Units of the zspages
# that moved wholly. 0 at once while another thread migrates or compacts the pool.
cdef uint64_t zs_migrate(PoolC *p, uint32_t node, int32_t origin) noexcept nogil
