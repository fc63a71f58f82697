"""zsmalloc: an allocator for compressed objects, in user space."""

from coldmem.zsmalloc.pool import Pool
from coldmem.zsmalloc.pools import Pools
from coldmem.zsmalloc.shrinker import STOP, Shrinker
from coldmem.zsmalloc.size_class import SizeClass, SizeClasses
from coldmem.zsmalloc.stats import ClassStats, LockStats, PoolStats, format_classes

__all__ = [
    "STOP",
    "ClassStats",
    "LockStats",
    "Pool",
    "PoolStats",
    "Pools",
    "Shrinker",
    "SizeClass",
    "SizeClasses",
    "format_classes",
]
