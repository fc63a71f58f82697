"""Options of a Zswap: checked, and put into its C side.

Guarantees: raises with nothing left behind but what the garbage collector takes; the door of the
Zswap is still shut, so closing it is safe.
"""

import os

import cython
from cython.cimports.coldmem.linux.atomic import cpus_configured
from cython.cimports.coldmem.zsmalloc.core import PoolP
from cython.cimports.coldmem.zsmalloc.pool import Pool
from cython.cimports.coldmem.zsmalloc.pools import Pools
from cython.cimports.coldmem.zswap.create import zswap_build
from cython.cimports.coldmem.zswap.state import BATCH_BYTES
from cython.cimports.coldmem.zswap.swapfile import SwapFile
from cython.cimports.libc.stdint import uint32_t
from cython.cimports.libc.stdlib import calloc

from coldmem.errors import ClosedError, EnvironmentFailure, UsageError
from coldmem.units import parse_bytes

UNITS = (4096, 16384, 65536)
ENTRIES_CHUNK = 64
# Enough that threads rarely meet; few enough that locks and list heads stay in the caches.
SHARDS_PER_CPU = 8
SHARDS_MIN = 16
SHARDS_MAX = 256


def _choice(options, name, values):
    """Which of two values an option has: 0 or 1."""
    if options[name] not in values:
        raise UsageError(f"{name}={options[name]!r}: choose {values[0]!r} or {values[1]!r}")
    return values.index(options[name])


def _machine_bytes():
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def zswap_construct(z, options):
    one: Pool
    many: Pools
    file: SwapFile
    i: uint32_t
    unit_bytes = parse_bytes(options["unit_bytes"])
    if unit_bytes not in UNITS:
        raise UsageError(f"units of {unit_bytes} bytes: choose 4096, 16384 or 65536")
    threshold = options["accept_threshold"]
    if not isinstance(threshold, (int, float)) or not 0 <= threshold <= 1:
        raise UsageError(f"accept_threshold={threshold!r}: choose a share of max_pool, 0 to 1")
    shards = options["shards"]
    if shards is None:
        shards = SHARDS_MIN
        while shards < min(SHARDS_PER_CPU * cpus_configured(), SHARDS_MAX):
            shards *= 2
    if not isinstance(shards, int) or not 1 <= shards <= 4096 or shards & (shards - 1):
        raise UsageError(f"shards={shards!r}: choose a power of two, 1 to 4096")
    entries_max = options["entries_max"]
    if not isinstance(entries_max, int) or not 1 <= entries_max < 1 << 32:
        raise UsageError(f"entries_max={entries_max!r}: choose 1 to 2**32 - 1")
    max_pool = parse_bytes(options["max_pool"], _machine_bytes())
    z.unit_bytes = unit_bytes
    z.refuse_when_full = _choice(options, "on_full", ("writeback", "reject"))
    z.protected_rule = _choice(options, "shrinker", ("referenced", "protected"))
    z.refuse_poor = _choice(options, "incompressible", ("raw", "reject"))

    common = {
        "unit_bytes": unit_bytes, "chain": options["chain"], "locking": options["locking"],
        "magazines": options["magazines"], "lock_statistics": options["lock_statistics"],
        "limit": max_pool,
    }
    n = options["pools"]
    if not isinstance(n, int) or not 1 <= n <= 256:
        raise UsageError(f"pools={n!r}: choose 1 to 256")
    z.pools = cython.cast(cython.pointer(PoolP), calloc(n, cython.sizeof(PoolP)))
    if z.pools == cython.NULL:
        raise MemoryError("no memory for a Zswap")
    if n == 1:
        pools = one = Pool(name="zswap", **common)
        z.pools[0] = one.c
    else:
        pools = many = Pools(n, **common)
        for i in range(many.n):
            z.pools[i] = many.c[i]
    z.pools_n = n
    z.budget = z.pools[0].arena.budget
    z.max_pool_bytes = max_pool
    z.accept_bytes = int(max_pool * threshold)
    # A result in the huge class takes a whole unit, as it does raw; and raw is read faster.
    z.compress_cap = min(z.pools[0].huge_class_size or unit_bytes, unit_bytes) - 1
    z.batch_bytes = max(BATCH_BYTES, 4 * unit_bytes)

    swap = options["swap"]
    made = swap is not None and not isinstance(swap, SwapFile)
    if made:
        swap = SwapFile(swap, unit_bytes=unit_bytes, directory=options["swap_directory"])
    elif options["swap_directory"] is not None:
        raise UsageError("swap_directory is for a swap file that is made here: give swap a size")
    if swap is not None:
        file = swap
        if file.closed:
            raise ClosedError("the swap file is closed")
        if file.unit_bytes != unit_bytes:
            raise UsageError(
                f"the swap file is for units of {file.unit_bytes} bytes, not {unit_bytes}"
            )
        z.swap = cython.address(file.c)
    # Where stores would write back themselves, begin before they have to.
    z.wake_bytes = max_pool
    if z.swap != cython.NULL and not z.refuse_when_full:
        z.wake_bytes = max_pool - (max_pool - z.accept_bytes) // 2
    z.entries_max = max(entries_max + 1, 2)
    z.entries_chunk = max(1, min(ENTRIES_CHUNK, entries_max // (4 * shards)))
    if zswap_build(z, shards, options["lock_statistics"]) != 0:
        raise EnvironmentFailure(
            f"the system refuses the address space for {entries_max} entries: pass a smaller "
            "entries_max=, or raise ulimit -v"
        )
    return pools, swap, made
