"""The copies of a store's values in its cache: their numbers, and who needs each still.

Owns: how many users a number has, and the list of those that nobody uses any more.
Guarantees: a number is never given out twice, so that a key that is dropped and put again meanwhile
    cannot be mistaken for itself; `collect` gives it once, after its last user gave it up.
Assumes: who calls `collect` deletes from the cache what it gives.
Locks: all is guarded by `Tiers.lock`, but for `_ended`: weak references put themselves there, in any
    thread and at any moment, and no lock may be asked for then.
"""

from __future__ import annotations

import weakref
from collections import deque
from typing import Any


class Copy:
    """Where a value is in the cache. It never changes.

    Attributes
    ----------
    numbers : tuple of int
        One, or one for each item of a dict.
    names : tuple or None
        The keys of the dict, in its order; None: the value is in one piece.
    kind : type
        Of the dict.
    """

    __slots__ = ("kind", "names", "numbers")

    def __init__(self, numbers: tuple[int, ...], names: tuple[Any, ...] | None = None,
                 kind: type[dict[Any, Any]] = dict) -> None:
        self.numbers = numbers
        self.names = names
        self.kind = kind


class _Lease(weakref.ref[Any]):
    """Until its object is gone, a copy is needed."""

    __slots__ = ("copy", "identity")

    copy: Copy
    identity: int


class Copies:
    """Which copies there are."""

    def __init__(self) -> None:
        self._unneeded: list[int] = []
        self._users: dict[int, int] = {}
        self._last = 0
        self._leases: dict[int, _Lease] = {}  # by the id of the object
        self._ended: deque[_Lease] = deque()

    def new(self, names: tuple[Any, ...] | None = None, kind: type[dict[Any, Any]] = dict) -> Copy:
        """A copy that is about to be made, and has one user."""
        count = 1 if names is None else len(names)
        numbers = tuple(range(self._last + 1, self._last + 1 + count))
        self._last += count
        self._users.update(dict.fromkeys(numbers, 1))
        return Copy(numbers, names, kind)

    def give_up(self, copy: Copy | None) -> None:
        """One user of it needs it no more."""
        for number in () if copy is None else copy.numbers:
            self._users[number] -= 1
            if not self._users[number]:
                del self._users[number]
                self._unneeded.append(number)

    def lease(self, value: object, copy: Copy) -> None:
        """`value` was made of `copy`, which somebody uses: it stays for as long as the value lives."""
        try:
            lease = _Lease(value, self._ended.append)
        except TypeError:
            return
        lease.copy, lease.identity = copy, id(value)
        for number in copy.numbers:
            self._users[number] += 1
        old = self._leases.get(lease.identity)
        self._leases[lease.identity] = lease
        if old is not None:  # of this value, or of one that is gone: `collect` will not find it any more
            self.give_up(old.copy)

    def claim(self, value: object) -> Copy | None:
        """The copy that `value` was made of; the caller is its user now, instead of the lease."""
        lease = self._leases.get(id(value))
        if lease is None or lease() is not value:
            return None
        del self._leases[lease.identity]
        return lease.copy

    def collect(self) -> list[int]:
        """What nobody needs any more, for the caller to delete from the cache."""
        while self._ended:
            lease = self._ended.popleft()
            if self._leases.get(lease.identity) is lease:
                del self._leases[lease.identity]
                self.give_up(lease.copy)
        found, self._unneeded = self._unneeded, []
        return found
