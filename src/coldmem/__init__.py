"""Compressed memory for Python: arrays larger than RAM, and the engine under them.

A part is imported when it is first used: ``coldmem run`` must not cost a small program what it does
not need.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from coldmem.cache.cache import Cache
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
    "Cache",
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

# Where the names are, those of errors excepted.
_HOMES = {
    "coldmem.cache.cache": ("Cache",),
    "coldmem.codecs": ("Codec", "PythonCodec", "available_codecs", "get_codec", "register_codec"),
    "coldmem.memory.memory": ("Memory",),
    "coldmem.zsmalloc": ("Pool", "Pools"),
    "coldmem.zswap": ("Group", "SwapFile", "Zswap"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_PARTS = ("cache", "codecs", "errors", "memory", "units", "zsmalloc", "zswap")


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f"coldmem.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'coldmem' has no attribute {name!r}")
    value = getattr(import_module(_HOME.get(name, "coldmem.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PARTS})
