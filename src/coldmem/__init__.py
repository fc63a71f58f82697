"""Compressed memory for Python: arrays larger than RAM, and the engine under them."""

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
from coldmem.memory.memory import Memory
from coldmem.zsmalloc import Pool, Pools
from coldmem.zswap import Group, SwapFile, Zswap

__all__ = [
    "Codec",
    "ColdmemError",
    "CorruptDataError",
    "Group",
    "Memory",
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
