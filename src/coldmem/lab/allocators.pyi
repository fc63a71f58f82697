from coldmem.lab.backend import Backend
from coldmem.lab.backends import Backends
from coldmem.zsmalloc.pool import Pool
from coldmem.zsmalloc.pools import Pools

class Allocators:
    def __init__(self, pool: Pool | Pools | Backend | Backends) -> None: ...
