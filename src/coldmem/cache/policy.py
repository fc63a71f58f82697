"""What a policy of one's own must do. Owns nothing, takes no locks."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Protocol


class Policy(Protocol):
    """Who leaves a `Cache` next: what ``policy=`` takes beside ``"s3fifo"`` and ``"lru"``.

    The cache calls it from any thread, one call after the other. A key may be named that has gone by
    itself (its time was over): such a call must do no harm.
    """

    def added(self, key: Hashable, nbytes: int, /) -> None:
        """`key` was set, for the first time or again, to a value of `nbytes` bytes."""

    def hit(self, key: Hashable, /) -> None:
        """`key` was found."""

    def removed(self, key: Hashable, /) -> None:
        """`key` was deleted or evicted."""

    def victim(self) -> Hashable:
        """The key that is to go next. Raises `LookupError` when it knows of none."""
