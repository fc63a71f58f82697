# Snapshots of a pool as Python records.
from coldmem.zsmalloc.core cimport PoolC

cdef object pool_stats(PoolC *p)
cdef list class_stats(PoolC *p)
cdef dict lock_stats(PoolC *p)
