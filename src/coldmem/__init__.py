"""Compressed memory for Python: the kernel's zsmalloc and zswap, and a swap file, in user space."""

from coldmem.codecs import Codec, PythonCodec, available_codecs, get_codec, register_codec
from coldmem.errors import (
    ColdmemError,
    CorruptDataError,
    MemoryLimitError,
    MissingLibraryError,
    SlotNotFoundError,
    SwapFileError,
    UsageError,
)
from coldmem.zsmalloc import Pool, Pools
from coldmem.zswap import Group, SwapFile, Zswap

__all__ = [
    "Codec",
    "ColdmemError",
    "CorruptDataError",
    "Group",
    "MemoryLimitError",
    "MissingLibraryError",
    "Pool",
    "Pools",
    "PythonCodec",
    "SlotNotFoundError",
    "SwapFile",
    "SwapFileError",
    "UsageError",
    "Zswap",
    "available_codecs",
    "get_codec",
    "register_codec",
]
