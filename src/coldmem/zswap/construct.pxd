# Options of a Zswap, checked and put into its C side.
from coldmem.zswap.state cimport ZswapC

# (Pool or Pools, SwapFile or None, whether the swap file was made here)
cdef tuple zswap_construct(ZswapC *z, dict options)
