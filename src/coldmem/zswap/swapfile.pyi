import os
from collections.abc import Sequence
from typing import Self, TypedDict

from typing_extensions import Buffer

from coldmem.zswap.swapio import Faults

class SwapFileStats(TypedDict):
    directory: str
    in_memory: bool
    swap_max_bytes: int
    size_bytes: int
    used_bytes: int
    file_bytes: int
    writes: int
    reads: int
    write_errors: int
    read_errors: int
    written_bytes: int
    read_bytes: int
    punched_bytes: int
    punch_errors: int

class SwapFile:
    unit_bytes: int
    directory: str
    in_memory: bool
    def __init__(
        self,
        swap_max: int | str,
        *,
        unit_bytes: int = 4096,
        directory: str | os.PathLike[str] | None = None,
        preallocate: bool = False,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(self, *exc: object) -> None: ...
    @property
    def closed(self) -> bool: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def swap_max_bytes(self) -> int: ...
    def charge(self, nbytes: int) -> int: ...
    def alloc(self, nbytes: int) -> int: ...
    def free(self, offset: int, nbytes: int) -> None: ...
    def write(self, offset: int, data: Buffer) -> None: ...
    def read(self, offset: int, nbytes: int) -> bytes: ...
    def trim(self) -> int: ...
    def stats(self) -> SwapFileStats: ...
    def check_valid(self) -> None: ...
    def install_faults(
        self, rows: Sequence[tuple[int, int, int, int, int, int]], seed: int = 0
    ) -> Faults | None: ...
    def close(self) -> None: ...
