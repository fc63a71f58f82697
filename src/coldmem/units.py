"""Text to bytes and back: "64K", "1GiB", "25%".

K, M, G, T (and KiB, MiB, …, also KB, MB, …) are powers of 1024, as in the kernel's memory.max.
"""

from __future__ import annotations

import re

from coldmem.errors import InvalidQuantityError

_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:iB|B)?\s*", re.IGNORECASE)
_PERCENT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


def parse_bytes(value: int | str, whole: int | None = None) -> int:
    """Bytes that `value` stands for.

    Parameters
    ----------
    value : int or str
        Bytes as an integer, or text: digits with an optional K, M, G or T (powers of 1024).
        A percentage needs `whole`.
    whole : int, optional
        What "100%" is, in bytes.

    Raises
    ------
    InvalidQuantityError
        When it is not a non-negative quantity, or not a whole number of bytes.
    """
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InvalidQuantityError(f"{value!r} is not a size: give bytes, or text such as '64K'")
    if isinstance(value, int):
        if value < 0:
            raise InvalidQuantityError(f"{value} is not a size: it is negative")
        return value
    if percent := _PERCENT.fullmatch(value):
        if whole is None:
            raise InvalidQuantityError(f"{value!r}: a percentage has no meaning here; give bytes")
        share = float(percent[1])
        if share > 100:
            raise InvalidQuantityError(f"{value!r} is more than the whole")
        return int(whole * share / 100)
    match = _PATTERN.fullmatch(value)
    if match is None:
        raise InvalidQuantityError(f"{value!r} is not a size: write it as '64K', '1.5GiB' or bytes")
    size = float(match[1]) * _FACTOR[match[2].upper()]
    if "." not in match[1]:
        size = int(match[1]) * _FACTOR[match[2].upper()]
    if size != int(size):
        raise InvalidQuantityError(f"{value!r} is not a whole number of bytes")
    return int(size)


def format_bytes(size: float) -> str:
    """`size` in bytes as short text, such as ``1.5 GiB``."""
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(amount) < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"
