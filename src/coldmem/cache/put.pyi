from collections.abc import Sequence
from typing import Any

from coldmem.cache.drop import Dropper

class Writer(Dropper):
    small_codec: int
    large_codec: int
    small_max: int
    sample_period: int
    def _put(
        self, key: Any, parts: bytes | Sequence[Any], kind: int, ttl: float | None,
        only_new: bool = False,
    ) -> bool: ...
