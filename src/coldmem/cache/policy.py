"""What a policy of one's own must do.

Locks: `LockedPolicy` has one, held while the policy is called.
"""

from __future__ import annotations

import threading
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


class LockedPolicy:
    """A policy of the user's, called by one thread at a time."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.lock = threading.RLock()  # `victim` may look at the cache

    def added(self, key: Hashable, nbytes: int) -> None:
        """See `Policy`."""
        with self.lock:
            self.policy.added(key, nbytes)

    def hit(self, key: Hashable) -> None:
        """See `Policy`."""
        with self.lock:
            self.policy.hit(key)

    def removed(self, key: Hashable) -> None:
        """See `Policy`."""
        with self.lock:
            self.policy.removed(key)

    def victim(self) -> Hashable:
        """See `Policy`."""
        with self.lock:
            return self.policy.victim()
