"""Arguments of a cache that have a wrong type or value: said at once, and what to give instead.

Owns: nothing. Guarantees: what passes can be used without a further look; all else is a UsageError.
Locks: none.
"""

from __future__ import annotations

import os
from typing import Any

from coldmem.errors import UsageError


def check_ttl(ttl: Any) -> None:
    """Raise UsageError unless `ttl` is None or a number of seconds, more than 0."""
    if ttl is None:
        return
    good = not isinstance(ttl, bool | str | bytes)
    if good:
        try:
            good = float(ttl) > 0
        except (TypeError, ValueError, OverflowError):
            good = False
    if not good:
        raise UsageError(f"ttl={ttl!r}: give seconds as a number, more than 0, or None for no end")


def check_folder(name: str, path: Any) -> str | None:
    """`path` as text, which argument `name` has given."""
    if path is None:
        return None
    try:
        text = os.fsdecode(path)
    except TypeError:
        raise UsageError(f"{name}={path!r}: give the path of a folder, as text or a Path") from None
    if not text or "\0" in text:
        raise UsageError(f"{name}={path!r} is not the path of a folder: give one, or leave {name}= out")
    return text


def check_flag(name: str, flag: Any) -> bool:
    """`flag`, which argument `name` has given, as a bool."""
    if flag is True or flag is False:
        return bool(flag)
    raise UsageError(f"{name}={flag!r}: give True or False")


def check_callable(what: str, given: Any) -> None:
    """Raise UsageError unless it can be called."""
    if not callable(given):
        raise UsageError(f"{what} must be callable, not {given!r}: give a function")
