"""Where each value of a store is: raw, on its way, or cold. No work is done here, only bookkeeping.

Owns: the entries, their order and the sums of their sizes.
Guarantees: a value can be read at every moment from when it was put until it is dropped; it is given up
    in RAM only when its copy in the cache is complete. Least recently used go first.
Assumes: values are not changed in place once they are stored, as Dask demands; a value that comes back
    keeps its copy in the cache, and going again then costs nothing.
Locks: `lock`, re-entrant, since dropping a value may run anything. Never held while a value is packed,
    compressed, written or read, nor while the cache is called.

States of an entry:

    RAW     in `raw` (or in `stuck`, if it cannot be moved); has its value, and perhaps a copy
    MOVING  taken out of `raw`, no copy yet; has its value: reading it makes it RAW again
    COLD    only the copy
    GONE    dropped or replaced

`busy` says that a thread is making the copy; whatever the state has become when it is done, `moved` and
`kept` sort it out. A copy is named by a number of its own, so that a key that is dropped and put again
meanwhile cannot be mistaken for itself.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from typing import Final

from dask.typing import Key

from coldmem.dask.budget import UNLIMITED, Budget

RAW, MOVING, COLD, GONE = range(4)
NOTHING: Final = object()  # instead of a value, where there is none

# The threads stop this far below the target, so that they do not start again for each small value.
_SLACK = 32  # a 32nd of the target


class Entry:
    """One value. Guarded by `Tiers.lock`; `key` and `size_bytes` never change."""

    __slots__ = ("__weakref__", "busy", "copy", "key", "size_bytes", "state", "value", "weak")

    def __init__(self, key: Key, value: object, size_bytes: int) -> None:
        self.key = key
        self.size_bytes = size_bytes
        self.value = value
        self.state = RAW
        self.busy = False
        self.copy: int | None = None
        self.weak: weakref.ref[object] | None = None


class Tiers:
    """The entries of a store, and what should move. Methods that end in ``_locked`` need the lock."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        # All below is guarded by `lock`.
        self.budget: Budget | None = None
        self.closed = False
        self.entries: dict[Key, Entry] = {}
        self.raw: OrderedDict[Key, Entry] = OrderedDict()  # oldest first
        self.stuck: dict[Key, Entry] = {}
        self.queue: deque[Entry] = deque()  # MOVING, and no thread at it
        self.wanted: deque[Entry] = deque()  # COLD, and soon to be read
        self.raw_bytes = 0  # with `stuck`
        self.moving_bytes = 0
        self.cold_bytes = 0  # sizes of the values, not of their copies
        self.compressed_bytes = 0  # in RAM, as the cache counts them
        self.compressed_entries = 0
        self.ratio = 1.0 / 2  # compressed size by original; a guess until the first is known
        self.disk_wanted_bytes = 0
        self.no_room_until_s = 0.0  # no copies are made until then: the last found no room
        self._draining = False
        self._copies = 0

    # -- the mapping ---------------------------------------------------------------------------------
    def put(self, key: Key, value: object, size_bytes: int) -> int | None:
        """Store a value; a copy of the one before, for the caller to delete."""
        with self.lock:
            old = self.drop(key) if key in self.entries else None
            entry = self.entries[key] = self.raw[key] = Entry(key, value, max(1, size_bytes))
            self.raw_bytes += entry.size_bytes
            if self.over_locked():
                self.lock.notify()
            return old

    def drop(self, key: Key) -> int | None:
        """Forget a value; its copy, for the caller to delete. KeyError if there is none."""
        with self.lock:
            entry = self.entries.pop(key)
            self._leave_locked(entry)
            entry.state = GONE
            value, entry.value = entry.value, NOTHING  # `queue` may still have the entry
        del value  # outside the lock: this may run anything
        return entry.copy

    def look(self, key: Key) -> tuple[Entry, object]:
        """The entry and its value, which is the most recently used now; NOTHING if only a copy is left.

        Raises KeyError if there is no such key.
        """
        with self.lock:
            entry = self.entries[key]
            if entry.state == RAW:
                if key in self.raw:
                    self.raw.move_to_end(key)
                return entry, entry.value
            if entry.state == MOVING:
                return entry, self._warm_locked(entry, entry.value)
            value = entry.weak() if entry.weak is not None else None
            return entry, NOTHING if value is None else self._warm_locked(entry, value)

    def peek(self, key: Key) -> tuple[Entry, object]:
        """As `look`, but nothing changes."""
        with self.lock:
            entry = self.entries[key]
            if entry.state != COLD:
                return entry, entry.value
            value = entry.weak() if entry.weak is not None else None
            return entry, NOTHING if value is None else value

    def restore(self, entry: Entry, value: object) -> object:
        """`value` was made from the copy of `entry`. Gives what readers get: one object for all."""
        with self.lock:
            if entry.state == COLD:
                return self._warm_locked(entry, value)
            return value if entry.value is NOTHING else entry.value

    def _warm_locked(self, entry: Entry, value: object) -> object:
        self._leave_locked(entry)
        entry.state = RAW
        entry.value = value
        entry.weak = None
        self.raw[entry.key] = entry
        self.raw_bytes += entry.size_bytes
        if self.over_locked():
            self.lock.notify()
        return value

    def _leave_locked(self, entry: Entry) -> None:
        """Out of the sums and lists of its state."""
        if entry.state == RAW:
            self.raw_bytes -= entry.size_bytes
            self.raw.pop(entry.key, None)
            self.stuck.pop(entry.key, None)
        elif entry.state == MOVING:
            self.moving_bytes -= entry.size_bytes  # `queue` finds out for itself
        elif entry.state == COLD:
            self.cold_bytes -= entry.size_bytes

    # -- out -----------------------------------------------------------------------------------------
    def demote_locked(self) -> int:
        """Take the oldest raw value out: its size, or -1 if there is none that can move."""
        if not self.raw:
            return -1
        entry = next(iter(self.raw.values()))
        self._leave_locked(entry)
        if entry.copy is not None:
            self._cool_locked(entry)
            self.lock.notify_all()  # a put may wait for it
        else:
            entry.state = MOVING
            self.moving_bytes += entry.size_bytes
            if not entry.busy:  # else a thread that began before it was read is still at it
                self.queue.append(entry)
                self.lock.notify()
        return entry.size_bytes

    def _cool_locked(self, entry: Entry) -> None:
        entry.state = COLD
        self.cold_bytes += entry.size_bytes
        try:
            # If a task still uses it, reading it again must not make a second one.
            entry.weak = weakref.ref(entry.value)
        except TypeError:
            entry.weak = None
        entry.value = NOTHING

    def take_locked(self) -> Entry | None:
        """The next entry to make a copy of; None if there is nothing to do."""
        while self.queue:
            entry = self.queue.popleft()
            if entry.state == MOVING and not entry.busy:
                entry.busy = True
                return entry
        while self.over_locked():
            if self.demote_locked() < 0:
                return None
            if self.queue:
                return self.take_locked()
        return None

    def moved(self, entry: Entry, copy: int) -> int | None:
        """The copy is complete. `copy` again if nobody needs it: the caller deletes it."""
        with self.lock:
            entry.busy = False
            self.lock.notify_all()
            if entry.state == GONE:
                return copy
            entry.copy = copy
            if entry.state == MOVING:
                self._leave_locked(entry)
                self._cool_locked(entry)
            return None

    def kept(self, entry: Entry, for_good: bool) -> None:
        """No copy could be made: raw again, as the most recently used, or for good."""
        with self.lock:
            entry.busy = False
            self.lock.notify_all()
            if entry.state == MOVING:
                self._warm_locked(entry, entry.value)
            if for_good and entry.state == RAW:
                self.stuck[entry.key] = entry
                self.raw.pop(entry.key, None)

    def new_copy(self) -> int:
        """A number that no copy had before."""
        with self.lock:
            self._copies += 1
            return self._copies

    def give_up_copies(self) -> list[int]:
        """Copies of values that are raw, for the caller to delete: there is no room for others."""
        with self.lock:
            copies = [e.copy for e in self.raw.values() if e.copy is not None and not e.busy]
            for entry in self.raw.values():
                if not entry.busy:
                    entry.copy = None
            return copies

    # -- how full ------------------------------------------------------------------------------------
    def over_locked(self) -> bool:
        """Whether raw values should move."""
        if self.budget is None or self.budget.target_bytes == UNLIMITED:
            return False
        target = self.budget.target_bytes
        used = self.raw_bytes + self.compressed_bytes
        self._draining = used > (target - target // _SLACK if self._draining else target)
        return self._draining

    def managed_bytes_locked(self) -> int:
        """RAM that the store holds."""
        return self.raw_bytes + self.moving_bytes + self.compressed_bytes

    def compressed_excess_locked(self) -> int:
        """Bytes of compressed values in RAM that should be on disk."""
        asked, self.disk_wanted_bytes = self.disk_wanted_bytes, 0
        if self.budget is None or self.budget.disk_bytes_max == 0 or not self.compressed_entries:
            return 0
        return max(asked, self.compressed_bytes - self.budget.compressed_bytes_max(self.ratio))

    def check_valid(self) -> None:
        """Raise `CorruptPoolError` if the sums or lists contradict the entries."""
        from coldmem.errors import CorruptPoolError

        with self.lock:
            sums = [0, 0, 0]
            for key, entry in self.entries.items():
                listed = (key in self.raw) + (key in self.stuck)
                wrong = (
                    entry.state == GONE or listed != (entry.state == RAW) or entry.key != key
                    or (entry.value is NOTHING) != (entry.state == COLD)
                    or (entry.state == COLD and entry.copy is None)
                    or (entry.state == MOVING and not entry.busy and entry not in self.queue)
                )
                if wrong:
                    raise CorruptPoolError(f"{key!r} is in state {entry.state} and in {listed} lists")
                sums[entry.state] += entry.size_bytes
            if sums != [self.raw_bytes, self.moving_bytes, self.cold_bytes]:
                raise CorruptPoolError(f"sizes sum up to {sums}, not to what is counted")
            if len(self.raw) + len(self.stuck) > len(self.entries):
                raise CorruptPoolError("a list holds a value that was dropped")
