"""What "auto" and "50%" come to on this machine. Owns nothing, takes no locks; needs no NumPy."""

from __future__ import annotations

import shutil

from coldmem.errors import MissingLibraryError
from coldmem.linux.cgroup import memory_limit
from coldmem.units import parse_bytes

UNIT_BYTES = 4096
THRESHOLD_BYTES = 256 << 10
AUTO_SHARE = 0.5
SWAP_TIMES = 8


def memory_bytes(value: int | str) -> int:
    """`memory_max` in bytes: "auto" is half of what the cgroup or the machine allows."""
    whole = memory_limit().nbytes
    if value == "auto":
        return int(whole * AUTO_SHARE)
    return parse_bytes(value, whole)


def swap_bytes(value: int | str, memory: int, directory: str | None) -> int:
    """`swap_max` in bytes: "auto" is eight times `memory`, and no more than half of the free disk."""
    if value != "auto":
        return parse_bytes(value)
    from coldmem.zswap.swapdir import default_directory

    free = shutil.disk_usage(directory or default_directory()).free
    return min(SWAP_TIMES * memory, free // 2)


def cold_name(codec: str, cold_codec: str | None) -> str | None:
    """Codec for what stays cold: "auto" is zstd behind the filters of `codec`, where it can be had."""
    if cold_codec != "auto":
        return cold_codec
    name = {"auto": "auto+zstd", "lz4": "zstd"}.get(codec)
    if name is not None:
        from coldmem.codecs import get_codec

        try:
            get_codec(name)
        except MissingLibraryError:
            return None
    return name
