from typing import Any

from coldmem.memory.extent import Extent, Pin
from coldmem.zswap.zswap import Zswap

class Manager:
    zswap: Zswap
    delivery: str
    memory_max: int
    swap_max: int
    overcommit: bool
    closed: bool
    def _start(
        self,
        memory_max: int,
        swap_max: int,
        unit_bytes: int,
        delivery: str,
        directory: str | None,
        codec: str,
        overcommit: bool,
        locking: str,
        cold_codec: str | None,
    ) -> None: ...
    def close(self) -> None: ...
    def allocate(self, nbytes: int) -> Extent: ...
    def owns(self, array: object) -> bool: ...
    def evict(self, array: object) -> int: ...
    def prefetch(self, array: object) -> int: ...
    def madvise(self, array: object, advice: str) -> None: ...
    def pinned(self, array: Any) -> Pin: ...
    def stats(self) -> dict[str, Any]: ...
