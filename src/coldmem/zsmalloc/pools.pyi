from collections.abc import Iterator
from types import TracebackType
from typing import Self

from coldmem.zsmalloc.pool import Pool

class Pools:
    pools: tuple[Pool, ...]
    def __init__(
        self,
        n: int = 32,
        *,
        limit: int | str | None = None,
        unit_bytes: int | str = 4096,
        chain: int = 8,
        chain_rule: str = "waste",
        locking: str = "pool",
        magazines: bool | int = False,
        lock_statistics: bool = False,
        compact_batch: int = 8,
        nodes: int = 1,
    ) -> None: ...
    def pool_of(self, slot: int) -> Pool: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Pool]: ...
    @property
    def used_bytes(self) -> int: ...
    def compact(self) -> int: ...
    def migrate(self, node: int, from_node: int | None = None) -> int: ...
    def check_valid(self, level: str = "full") -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
