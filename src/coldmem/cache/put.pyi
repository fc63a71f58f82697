from collections.abc import Sequence
from typing import Any

from coldmem.cache.core import Core

class Writer(Core):
    small_codec: int
    large_codec: int
    small_max: int
    sample_period: int
    def _put(
        self, key: Any, parts: bytes | Sequence[Any], kind: int, ttl: float | None,
        only_new: bool = False,
    ) -> bool: ...
    def _drop(self, key: Any) -> bool: ...
    def _identity(self, key: Any) -> tuple[int, int, int] | None: ...
    def _drop_if(self, key: Any, identity: tuple[int, int, int]) -> bool: ...
