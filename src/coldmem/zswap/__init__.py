"""zswap: a compressed cache of units of memory, with a swap file behind it."""

from coldmem.zswap.groups import Group
from coldmem.zswap.swapfile import SwapFile
from coldmem.zswap.zswap import Zswap

__all__ = ["Group", "SwapFile", "Zswap"]
