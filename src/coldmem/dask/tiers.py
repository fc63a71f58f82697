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
`kept` sort it out. `reading` says that a thread is making a value of the copy; others wait for it.

One object that is put under several keys is one entry: it is counted, compressed and brought back once.
A value that was made of an item of another's copy has that copy from the beginning.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict, deque
from typing import Final

from dask.typing import Key

from coldmem.dask.budget import UNLIMITED, Budget
from coldmem.dask.copies import Copies, Copy

RAW, MOVING, COLD, GONE = range(4)
NOTHING: Final = object()  # instead of a value, where there is none

# The threads stop this far below the target, so that they do not start again for each small value.
_SLACK = 32  # a 32nd of the target
# Of a value that is looked for among those that are there, whether it is the same object.
_SHARED_BYTES_MIN = 64 << 10
# The least that the process had beside its values for so long is what it keeps.
_LASTING_S = 0.5


class Entry:
    """One value, and all keys that it has. Guarded by `Tiers.lock`; `size_bytes` never changes."""

    __slots__ = ("__weakref__", "aliases", "busy", "copy", "identity", "key", "reading", "size_bytes",
                 "state", "value", "weak")

    def __init__(self, key: Key, value: object, size_bytes: int) -> None:
        self.key = key
        self.aliases: set[Key] = set()  # its other keys
        self.identity = 0  # where `Tiers` finds it by its value
        self.size_bytes = size_bytes
        self.value = value
        self.state = RAW
        self.busy = False
        self.reading = False
        self.copy: Copy | None = None
        self.weak: weakref.ref[object] | None = None


class Tiers:
    """The entries of a store, and what should move. Methods that end in ``_locked`` need the lock."""

    def __init__(self) -> None:
        self.lock = threading.Condition(threading.RLock())
        # All below is guarded by `lock`.
        self.budget: Budget | None = None  # what is left beside the rest of the process
        self.whole: Budget | None = None
        self._unmanaged: deque[tuple[float, int]] = deque()  # when seen, bytes; of the last moments
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
        self.copies = Copies()
        self._draining = False
        self._by_identity: dict[int, Entry] = {}  # id of the value; who is COLD may be there in vain

    # -- the mapping ---------------------------------------------------------------------------------
    def put(self, key: Key, value: object, size_bytes: int) -> None:
        """Store a value; the one before, if there was one, is dropped."""
        with self.lock:
            if key in self.entries:
                self.drop(key)
            size_bytes = max(1, size_bytes)
            same = self._same_locked(value) if size_bytes >= _SHARED_BYTES_MIN else None
            if same is not None:
                # Dask's ways around a persisted collection are keys of their own for the same objects.
                same.aliases.add(key)
                self.entries[key] = same
                if same.state != RAW:
                    self._warm_locked(same, value)
                return
            entry = self.entries[key] = self.raw[key] = Entry(key, value, size_bytes)
            self._name_locked(entry, value)
            entry.copy = self.copies.claim(value)
            self.raw_bytes += size_bytes
            if self.over_locked():
                self.lock.notify()

    def drop(self, key: Key) -> None:
        """Forget a value. KeyError if there is none."""
        with self.lock:
            entry = self.entries.pop(key)
            if entry.aliases:
                self._drop_name_locked(entry, key)
                return
            self._leave_locked(entry)
            self._unname_locked(entry)
            entry.state = GONE
            self.copies.give_up(entry.copy)
            value, entry.value = entry.value, NOTHING  # `queue` may still have the entry
        del value  # outside the lock: this may run anything

    def _drop_name_locked(self, entry: Entry, key: Key) -> None:
        """One of several keys of a value goes."""
        if entry.key != key:
            entry.aliases.remove(key)
            return
        entry.key = entry.aliases.pop()
        for listed in (self.raw, self.stuck):
            if listed.pop(key, None) is not None:
                listed[entry.key] = entry

    def _same_locked(self, value: object) -> Entry | None:
        """The entry that has this very object already."""
        found = self._by_identity.get(id(value))
        if found is None:
            return None
        known = found.weak() if found.state == COLD and found.weak is not None else found.value
        return found if known is value else None

    def _name_locked(self, entry: Entry, value: object) -> None:
        self._unname_locked(entry)
        if entry.size_bytes >= _SHARED_BYTES_MIN:
            entry.identity = id(value)
            self._by_identity[entry.identity] = entry

    def _unname_locked(self, entry: Entry) -> None:
        if self._by_identity.get(entry.identity) is entry:
            del self._by_identity[entry.identity]

    def look(self, key: Key) -> tuple[Entry, object]:
        """The entry and its value, which is the most recently used now; NOTHING if only a copy is left.

        Raises KeyError if there is no such key.
        """
        with self.lock:
            entry = self.entries[key]
            if entry.state == RAW:
                if entry.key in self.raw:
                    self.raw.move_to_end(entry.key)
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

    def begin_read(self, entry: Entry) -> bool:
        """Whether the caller should read the copy; else somebody was at it, and is done now."""
        with self.lock:
            if not entry.reading:
                entry.reading = True
                return True
            while entry.reading:
                self.lock.wait()
            return False

    def end_read(self, entry: Entry) -> None:
        """After `begin_read` was True, whatever became of it."""
        with self.lock:
            entry.reading = False
            self.lock.notify_all()

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
        self._name_locked(entry, value)
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
            self._unname_locked(entry)
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

    def moved(self, entry: Entry, copy: Copy) -> None:
        """The copy is complete."""
        with self.lock:
            entry.busy = False
            self.lock.notify_all()
            if entry.state == GONE:
                self.copies.give_up(copy)
                return
            entry.copy = copy
            if copy.names is not None and isinstance(entry.value, dict):
                self._share_locked(entry.value, copy)
            if entry.state == MOVING:
                self._leave_locked(entry)
                self._cool_locked(entry)

    def _share_locked(self, value: dict[object, object], copy: Copy) -> None:
        """The items of a dict were packed one by one: who takes one out needs no other copy of it."""
        for item, number in zip(value.values(), copy.numbers, strict=True):
            same, piece = self._same_locked(item), Copy((number,))
            self.copies.lease(item, piece)
            if same is not None and same.copy is None and not same.busy and same.state == RAW:
                same.copy = self.copies.claim(item)

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

    def give_up_copies(self) -> bool:
        """Of values that are raw: there is no room for others. Whether there were any."""
        with self.lock:
            found = [e for e in self.raw.values() if e.copy is not None and not e.busy]
            for entry in found:
                self.copies.give_up(entry.copy)
                entry.copy = None
            return bool(found)

    # -- how full ------------------------------------------------------------------------------------
    def allow(self, budget: Budget) -> None:
        """From now on this is what there is, as long as the process holds nothing else."""
        with self.lock:
            self.whole = self.budget = budget

    def see(self, process_bytes: int, now_s: float) -> None:
        """The process as a whole has so many bytes now."""
        with self.lock:
            if self.whole is None:
                return
            now_bytes = max(0, process_bytes - self.managed_bytes_locked())
            seen = self._unmanaged
            while seen and (seen[0][0] < now_s - _LASTING_S):
                seen.popleft()
            while seen and seen[-1][1] >= now_bytes:  # what is left rises, so the first is the least
                seen.pop()
            seen.append((now_s, now_bytes))
            self.budget = self.whole.beside(seen[0][1], now_bytes)
            if self.over_locked():
                self.lock.notify()

    def over_locked(self) -> bool:
        """Whether raw values should move."""
        if self.budget is None or self.budget.target_bytes == UNLIMITED:
            return False
        target = self.budget.target_bytes
        used = self.raw_bytes + self.compressed_bytes
        self._draining = self.full_locked() or used > (
            target - target // _SLACK if self._draining else target)
        return self._draining

    def full_locked(self) -> bool:
        """Whether who brings a value should wait. A look without the lock may be a little late."""
        budget = self.budget
        return budget is not None and self.managed_bytes_locked() > budget.hold_bytes

    def can_move_locked(self) -> bool:
        """Whether the threads have anything to do that gives memory back."""
        if self.closed or self.budget is None:
            return False
        return bool(self.raw or self.moving_bytes or (
            self.budget.disk_bytes_max != 0 and self.compressed_entries
            and self.compressed_bytes > self.budget.compressed_bytes_max(self.ratio)))

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
                if key != entry.key:
                    if key not in entry.aliases or self.entries.get(entry.key) is not entry:
                        raise CorruptPoolError(f"{key!r} is no key of its value")
                    continue
                listed = (key in self.raw) + (key in self.stuck)
                wrong = (
                    entry.state == GONE or listed != (entry.state == RAW)
                    or any(self.entries.get(alias) is not entry for alias in entry.aliases)
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
