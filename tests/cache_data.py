"""Values for tests of the cache, and caches of each kind."""

import hashlib
import itertools
import random

from coldmem import Cache

KINDS = ["ram", "lru", "disk", "persistent", "lossless"]


WORDS = [b"user", b"name", b'{"id": ', b"null", b"value", b"true", b"2026-11-", b"page"]
NUMBERS = [b" %d, " % number for number in range(1000)]


def text(nbytes, seed=0):
    """Compresses to about a third, and differs with the seed."""
    pick = random.Random(seed)
    parts = [b"%d " % seed]
    done = len(parts[0])
    while done < nbytes:
        pairs = zip(pick.choices(WORDS, k=60), pick.choices(NUMBERS, k=60), strict=True)
        parts.append(b"".join(itertools.chain.from_iterable(pairs)) * (1 + (nbytes > 1 << 16) * 50))
        done += len(parts[-1])
    return b"".join(parts)[:nbytes]


def noise(nbytes, seed=0):
    """Does not compress."""
    if nbytes < 4096:  # seeding takes longer than the bytes
        return hashlib.shake_128(b"%d" % seed).digest(nbytes)
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
