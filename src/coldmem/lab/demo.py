"""The main job: real data into a pool that is too small for it, and all of it back.

Owns the Zswap, its swap file and the data of one run. Guarantees: every unit is stored once and
compared once, byte by byte, in another order than it was stored; a unit that differs, or cannot be
read, is named with its slot and kind. Data are made before the clock starts.
Threads: `threads` Python threads, each a batch at a time; the engine releases the GIL.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from coldmem.codecs import get_codec
from coldmem.errors import ColdmemError, UsageError
from coldmem.lab import corpora
from coldmem.zswap import Group, Zswap

# Parts of the data by kind: what a program that computes with NumPy might hold.
PARTS = {
    "text": 4, "elf": 4, "float64": 4, "float32": 2, "int64": 2, "int32": 1, "int16": 1, "bool": 1,
    "zeros": 1, "random": 1,
}
UNITS = (4096, 16384, 65536)
TIMES_THE_LIMIT = 4
BATCH_BYTES = 512 << 10
DIFFERENCES_SHOWN = 5


@dataclass(frozen=True)
class Plan:
    """What to run."""

    max_pool_bytes: int = 64 << 20
    threads: int = 4
    unit_bytes: int = 4096
    codec: str = "lz4"
    locking: str = "handle"
    swap_directory: str | None = None
    seed: int = 1
    spoil: bool = False  # overwrite one unit between the phases: a test that we would notice

    def check(self) -> None:
        """Raise `UsageError` for what cannot be run."""
        get_codec(self.codec)
        if self.unit_bytes not in UNITS:
            raise UsageError(f"units of {self.unit_bytes} bytes: choose 4K, 16K or 64K")
        if self.threads < 1:
            raise UsageError("--threads must be 1 or more")
        if self.max_pool_bytes < 64 * self.unit_bytes:
            raise UsageError(f"--max-pool must be 64 units or more: {64 * self.unit_bytes} bytes")


@dataclass(frozen=True)
class Kind:
    """Where the units of one kind are: slots first..end-1."""

    name: str
    first: int
    end: int


@dataclass(frozen=True)
class Progress:
    """How far a phase is."""

    phase: str  # "storing" or "reading back"
    done_bytes: int
    total_bytes: int
    seconds: float
    ram_bytes: int
    disk_bytes: int


@dataclass
class Outcome:
    """What was found."""

    kinds: list[dict[str, object]]
    total_bytes: int
    ram_bytes: int
    disk_bytes: int
    peak_pool_bytes: int
    metadata_bytes: int
    same_filled_units: int
    raw_units: int
    written_back_units: int
    disk_loads: int
    store_s: float
    load_s: float
    wait_share: float
    wait_share_by_lock: dict[str, float]
    differences: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Data:
    """All units, one row each, and what they are."""

    units: npt.NDArray[np.uint8]
    kinds: list[Kind]

    def kind_of(self, slot: int) -> Kind:
        return next(kind for kind in self.kinds if kind.first <= slot < kind.end)


def make_data(plan: Plan, report: Callable[[str], None] = lambda line: None) -> Data:
    """At least four times the limit, kind after kind."""
    part = -(-TIMES_THE_LIMIT * plan.max_pool_bytes // sum(PARTS.values()))
    pieces, kinds, first = [], [], 0
    for name, parts in PARTS.items():
        report(f"collecting {name}: {corpora.KINDS[name]}")
        n = -(-part * parts // plan.unit_bytes)
        pieces.append(corpora.make(name, n * plan.unit_bytes).reshape(n, plan.unit_bytes))
        kinds.append(Kind(name, first, first + n))
        first += n
    return Data(np.concatenate(pieces), kinds)


def run(
    plan: Plan, data: Data, watch: Callable[[Progress], None] = lambda progress: None,
    watch_every_s: float = 0.1,
) -> Outcome:
    """Store `data`, read it back, compare; `watch` is called all along from this thread."""
    plan.check()
    rng = np.random.default_rng(plan.seed)
    with Zswap(
        unit_bytes=plan.unit_bytes, max_pool=plan.max_pool_bytes, codec=plan.codec,
        swap=2 * data.units.nbytes + (1 << 20), swap_directory=plan.swap_directory,
        locking=plan.locking, lock_statistics=True,
    ) as zswap:
        groups = {kind.name: zswap.group(kind.name) for kind in data.kinds}
        job = _Job(plan, data, zswap, groups)
        store_s = job.phase("storing", job.store, job.store_batches(rng), watch, watch_every_s)
        kinds = [_kind_row(kind, groups[kind.name], plan.unit_bytes) for kind in data.kinds]
        stored = zswap.stats()
        if plan.spoil:
            slot = int(rng.integers(data.kinds[0].first, data.kinds[0].end))
            other = data.units[slot].copy()
            other[plan.unit_bytes // 2] ^= 1
            zswap.store(slot, other)
        load_s = job.phase("reading back", job.compare, job.load_batches(rng), watch, watch_every_s)
        counters, locks = zswap.counters(), zswap.lock_stats()
        zswap.check_valid()
        thread_s = (store_s + load_s) * plan.threads
        shares = {kind: s.wait_ns / 1e9 / thread_s for kind, s in locks.items()}
        return Outcome(
            kinds, data.units.nbytes, stored["pool_used_bytes"], stored["disk_bytes"],
            stored["pool_peak_bytes"], stored["metadata_bytes"], stored["units_same_filled"],
            stored["units_incompressible"], counters["written_back_pages"], counters["swpin_disk"],
            store_s, load_s, sum(shares.values()), shares, job.differences,
        )


def _kind_row(kind: Kind, group: Group, unit_bytes: int) -> dict[str, object]:
    stats = group.stats()
    size = (kind.end - kind.first) * unit_bytes
    kept = stats["zswap"] + stats["swap"]
    return {
        "kind": kind.name, "stored_bytes": size, "ram_bytes": stats["zswap"],
        "disk_bytes": stats["swap"], "ratio": size / kept if kept else None,
    }


Batch = npt.NDArray[np.uint64]


class _Job:
    """One run's threads. `lock` guards `next`, `done_bytes`, `differences` and `error`."""

    def __init__(self, plan: Plan, data: Data, zswap: Zswap, groups: dict[str, Group]) -> None:
        self.plan, self.data, self.zswap, self.groups = plan, data, zswap, groups
        self.lock = threading.Lock()
        self.next = 0
        self.done_bytes = 0
        self.differences: list[str] = []
        self.error: BaseException | None = None
        self.stopped = False

    def _per_batch(self) -> int:
        return max(1, BATCH_BYTES // self.plan.unit_bytes)

    def store_batches(self, rng: np.random.Generator) -> list[Batch]:
        """Consecutive units of one kind each; kinds take turns."""
        batches = [
            np.arange(at, min(at + self._per_batch(), kind.end), dtype=np.uint64)
            for kind in self.data.kinds
            for at in range(kind.first, kind.end, self._per_batch())
        ]
        return [batches[i] for i in rng.permutation(len(batches))]

    def load_batches(self, rng: np.random.Generator) -> list[Batch]:
        """Units of all kinds in random order."""
        order = rng.permutation(len(self.data.units)).astype(np.uint64)
        return [order[at : at + self._per_batch()] for at in range(0, len(order), self._per_batch())]

    def phase(
        self, name: str, work: Callable[[Batch], None], batches: Sequence[Batch],
        watch: Callable[[Progress], None], every_s: float,
    ) -> float:
        """Run `work` over `batches` in all threads; the seconds it took."""
        self.next = self.done_bytes = 0
        threads = [
            threading.Thread(target=self._thread, args=(work, batches), daemon=True)
            for _ in range(self.plan.threads)
        ]
        start = time.monotonic()
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(every_s)
                    watch(self._progress(name, time.monotonic() - start))
        finally:
            self.stopped = True
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self.stopped = False
        seconds = time.monotonic() - start
        if self.error is not None:
            raise self.error
        watch(self._progress(name, seconds))
        return seconds

    def _progress(self, name: str, seconds: float) -> Progress:
        stats = self.zswap.stats()
        return Progress(
            name, self.done_bytes, self.data.units.nbytes, seconds, stats["pool_used_bytes"],
            stats["disk_bytes"],
        )

    def _thread(self, work: Callable[[Batch], None], batches: Sequence[Batch]) -> None:
        try:
            while not self.stopped:
                with self.lock:
                    mine = self.next
                    self.next += 1
                if mine >= len(batches):
                    return
                work(batches[mine])
                with self.lock:
                    self.done_bytes += len(batches[mine]) * self.plan.unit_bytes
        except BaseException as error:
            with self.lock:
                self.error = error
                self.stopped = True

    def store(self, slots: Batch) -> None:
        group = self.groups[self.data.kind_of(int(slots[0])).name]
        self.zswap.store_many(slots, self.data.units[int(slots[0]) : int(slots[-1]) + 1], group)

    def compare(self, slots: Batch) -> None:
        out = np.empty((len(slots), self.plan.unit_bytes), np.uint8)
        failed: dict[int, str] = {}
        try:
            self.zswap.load_many(slots, out)
        except ColdmemError as error:
            bad = getattr(error, "slots", ())
            if not bad:
                raise
            failed = dict.fromkeys(bad, str(error))
        want = self.data.units[slots]
        if not failed and np.array_equal(out, want):
            return
        for i, slot in enumerate(map(int, slots)):
            if slot in failed:
                self._differs(slot, failed[slot])
            elif not np.array_equal(out[i], want[i]):
                at = int(np.flatnonzero(out[i] != want[i])[0])
                self._differs(slot, f"first at byte {at}")

    def _differs(self, slot: int, how: str) -> None:
        kind = self.data.kind_of(slot)
        with self.lock:
            self.differences.append(
                f"slot {slot} (kind {kind.name}, unit {slot - kind.first} of it): {how}"
            )
