"""Units of memory for tests: deterministic, of known compressibility."""

import random

UNIT = 4096
_WORDS = [w.encode() for w in (
    "pool", "size class", "zspage", "object", "handle", "fullness group", "compaction", "store",
    "load", "invalidate", "shrinker", "writeback", "swap slot", "memory.max", "second chance",
)]


def text(key: int, unit: int = UNIT) -> bytes:
    """Compressible to about a third; different for each key."""
    source = random.Random(f"text{key}")
    parts = [f"{key}:".encode()]
    size = len(parts[0])
    while size < unit:
        word = source.choice(_WORDS) + b" %d " % source.randrange(1000)
        parts.append(word)
        size += len(word)
    return b"".join(parts)[:unit]


def noise(key: int, unit: int = UNIT) -> bytes:
    """Incompressible; different for each key."""
    return random.Random(f"noise{key}").randbytes(unit)


def same(word: int, unit: int = UNIT) -> bytes:
    """One 64-bit word, repeated."""
    return word.to_bytes(8, "little") * (unit // 8)


def sized(key: int, share: float, unit: int = UNIT) -> bytes:
    """`share` of it noise, the rest zeros: compresses to about that share."""
    n = int(unit * share)
    return (noise(key, unit)[:n] + bytes(unit))[:unit]
