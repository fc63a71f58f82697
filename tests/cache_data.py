"""Values for tests of the cache, and caches of each kind."""

import random

from coldmem import Cache

KINDS = ["ram", "lru", "disk", "persistent", "lossless"]


def text(nbytes, seed=0):
    """Compresses to about a third, and differs with the seed."""
    words = [b"user", b"name", b'{"id": ', b"null", b"value", b"true", b"2026-11-", b"page"]
    pick = random.Random(seed)
    out = b"%d " % seed
    while len(out) < nbytes:
        line = b"".join(b"%b %d, " % (pick.choice(words), pick.randrange(1000)) for _ in range(60))
        out += line * (1 + (nbytes > 1 << 16) * 50)
    return out[:nbytes]


def noise(nbytes, seed=0):
    """Does not compress."""
    return random.Random(seed).randbytes(nbytes)


def make_cache(kind, folder, memory="64MiB", **options):
    """A cache of one of KINDS; `folder` is where it may write."""
    more = {
        "ram": {}, "lru": {"policy": "lru"}, "disk": {"directory": folder, "disk_max": "256MiB"},
        "persistent": {"path": folder / "cache"},
        "lossless": {"directory": folder, "disk_max": "256MiB", "lossless": True},
    }[kind]
    return Cache(memory, **(more | options))


def pass_time(cache, seconds):
    """Let `seconds` pass, for the lifetimes of this cache's values."""
    cache._shift_clock(seconds)
