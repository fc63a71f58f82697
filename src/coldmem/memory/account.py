"""The account of a Memory at this moment. Owns nothing; reads atomics, takes no locks."""

import cython
from cython.cimports.coldmem.linux.atomic import a64_load_rlx
from cython.cimports.coldmem.memory.limit import footprint, metadata_bytes
from cython.cimports.coldmem.zswap.state import CONTEXTS_MAX
from cython.cimports.libc.stdint import uint32_t, uint64_t

# In the order of state.pxd's Counts.
COUNTS = ("faults", "fills", "loads", "readahead", "write_faults", "spurious", "compressed",
          "reused", "stripped", "avoidable", "wanted", "dropped", "refused", "direct",
          "background", "overshoots", "waits", "failed")


def memory_account(m, inner):
    counts = [0] * len(COUNTS)
    c: cython.pointer(uint64_t)
    i: uint32_t
    j: uint32_t
    for i in range(CONTEXTS_MAX):
        c = cython.cast(cython.pointer(uint64_t), cython.address(m.places[i].counts))
        for j in range(18):
            counts[j] += a64_load_rlx(c + j)
    stored = inner["stored_bytes"] + inner["disk_bytes"]
    return {
        "unit_bytes": m.unit_bytes,
        "arrays": a64_load_rlx(cython.address(m.arrays)),
        "array_bytes": a64_load_rlx(cython.address(m.array_bytes)),
        "hot_bytes": a64_load_rlx(cython.address(m.hot_bytes)),
        "clean_bytes": a64_load_rlx(cython.address(m.clean_units)) << m.unit_shift,
        "pinned_bytes": a64_load_rlx(cython.address(m.pinned_units)) << m.unit_shift,
        "compressed_bytes": inner["pool_used_bytes"],
        "swap_bytes": inner["disk_bytes"],
        "metadata_bytes": metadata_bytes(m),
        "footprint_bytes": footprint(m),
        "footprint_peak_bytes": a64_load_rlx(cython.address(m.peak_bytes)),
        "recompressed_bytes": a64_load_rlx(cython.address(m.z.events.recompressed)) << m.unit_shift,
        "ratio": inner["units"] * m.unit_bytes / stored if stored else None,
        **dict(zip(COUNTS, counts, strict=True)),
    }
