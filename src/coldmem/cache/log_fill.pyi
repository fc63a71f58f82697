from collections.abc import Sequence

from coldmem.cache.space import Space

def fill(
    source: int | bytes, offset: int, rooms: Sequence[Space | bytes | bytearray], parts: Sequence[int],
    seed: int,
) -> int | None: ...
