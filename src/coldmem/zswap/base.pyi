import os
from types import TracebackType
from typing import Any, Self

from coldmem.codecs.codec import Codec
from coldmem.codecs.registry import CodecLike
from coldmem.zsmalloc.shrinker import Shrinker
from coldmem.zsmalloc.stats import ClassStats, LockStats, PoolStats
from coldmem.zswap.groups import Group
from coldmem.zswap.swapfile import SwapFile

class ZswapBase:
    locking: str
    swap: SwapFile | None
    def __init__(
        self,
        *,
        unit_bytes: int | str = 4096,
        max_pool: int | str = "20%",
        accept_threshold: float = 0.9,
        codec: str | Codec | CodecLike = "lz4",
        cold_codec: str | Codec | CodecLike | None = None,
        swap: SwapFile | int | str | None = None,
        swap_directory: str | os.PathLike[str] | None = None,
        on_full: str = "writeback",
        shrinker: str = "referenced",
        shrinker_thread: bool = True,
        incompressible: str = "raw",
        locking: str = "handle",
        magazines: bool | int = False,
        chain: int = 8,
        lock_statistics: bool = False,
        pools: int = 1,
        shards: int | None = None,
        entries_max: int = 67108864,
    ) -> None: ...
    def group_id(self, group: Group | str) -> int | None: ...
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def group(
        self,
        name: str,
        *,
        memory_max: int | str | None = None,
        zswap_max: int | str | None = None,
        swap_max: int | str | None = None,
        zswap_writeback: bool | None = None,
        parent: Group | str | None = None,
    ) -> Group: ...
    def shrink(self, nbytes: int | str, gentle: bool = False) -> int: ...
    def freeable(self) -> int: ...
    def shrinker(self) -> Shrinker: ...
    def compact(self) -> int: ...
    @property
    def codec(self) -> str: ...
    def set_codec(self, codec: str | Codec | CodecLike) -> None: ...
    def counters(self) -> dict[str, int]: ...
    def stats(self) -> dict[str, Any]: ...
    def lock_stats(self) -> dict[str, LockStats]: ...
    def pool_stats(self) -> list[PoolStats]: ...
    def class_stats(self) -> list[list[ClassStats]]: ...
    def check_valid(self, level: str = "cheap") -> None: ...
    @property
    def unit_bytes(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
