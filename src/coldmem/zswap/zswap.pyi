import os
from collections.abc import Sequence
from typing import Any, Literal

from typing_extensions import Buffer

from coldmem.codecs import Codec
from coldmem.zswap.base import ZswapBase
from coldmem.zswap.groups import Group
from coldmem.zswap.swapfile import SwapFile

Slots = int | range | Sequence[int] | Buffer

class Zswap(ZswapBase):
    def __init__(
        self,
        *,
        unit_bytes: int | str = 4096,
        max_pool: int | str = "20%",
        accept_threshold: float = 0.9,
        codec: str | Codec | Any = "lz4",
        swap: SwapFile | int | str | None = None,
        swap_directory: str | os.PathLike[str] | None = None,
        on_full: Literal["writeback", "reject"] = "writeback",
        shrinker: Literal["referenced", "protected"] = "referenced",
        shrinker_thread: bool = True,
        incompressible: Literal["raw", "reject"] = "raw",
        locking: Literal["handle", "class", "pool"] = "handle",
        magazines: bool | int = False,
        chain: int = 8,
        lock_statistics: bool = False,
        pools: int = 1,
        shards: int = 64,
        entries_max: int = 67108864,
    ) -> None: ...
    def store(self, slot: int, buffer: Buffer, group: Group | str | None = None) -> None: ...
    def store_many(
        self, slots: Slots, buffer: Buffer, group: Group | str | None = None
    ) -> None: ...
    def load(self, slot: int, out: Buffer, exclusive: bool = False) -> None: ...
    def load_many(self, slots: Slots, buffer: Buffer, exclusive: bool = False) -> None: ...
    def invalidate(self, slot: int) -> bool: ...
    def invalidate_many(self, slots: Slots, count: int | None = None) -> int: ...
    def contains(self, slot: int) -> bool: ...
    def __contains__(self, slot: object) -> bool: ...
    def __len__(self) -> int: ...
