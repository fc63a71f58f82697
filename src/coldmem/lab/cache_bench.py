"""``bench cache``: coldmem.Cache and what else there is, on the same values and accesses.

Owns: one child process at a time, a Redis server where it is Redis' turn, and two folders; all of it is
gone when it returns or raises, also on Ctrl-C. Guarantees: each peer runs in a process of its own; peers
and repeats take turns, each repeat begins with another peer.

Equal memory: a fill, which is the workload `ENTRIES`, ends where the kernel says that the peer has taken
the limit, or where a peer whose limit is of all that it takes begins to evict. What the peer said of
itself then, brought to the limit in proportion, is the limit that it gets where hits are counted. The
fill of the first repeat decides, so that a peer has one limit in all repeats.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import cache_corpora, cache_redis
from coldmem.lab.cache_case import ENTRIES, GET, SCAN, SET, WORKLOADS, ZIPF, CacheCase
from coldmem.lab.cache_corpora import HTML, JSON, NUMPY, VALUE_KINDS
from coldmem.lab.cache_peers import DICT, PEERS, REDIS, missing
from coldmem.lab.cache_redis import RedisServer
from coldmem.lab.child import KilledError, TooSlowError, run_child
from coldmem.lab.postponed import PostponedSignals
from coldmem.lab.result import Result, Row

KIB, MIB = 1 << 10, 1 << 20
SIZES = (KIB, 4 * KIB, 16 * KIB, 64 * KIB)
#: What is measured where nothing else is said: (value kind, bytes).
CELLS = (*((JSON, size) for size in SIZES), (HTML, 16 * KIB), (NUMPY, 16 * KIB))
HIT_BYTES = KIB  # of the values where entries and hits are counted; they are JSON
KEYS_TIMES = 10  # keys for each entry that a dict holds in the limit
CHILD_S_MAX = 300.0
OFF_SHARE, OFF_MOST = 0.06, 3  # what a peer holds may be off the limit by so much; else again, so often
SHARED_MEMORY = "/dev/shm"
FREE_TIMES = 8  # free space there for each byte of the limit and of the data
LIMIT_BYTES_MIN = 4 * MIB
DATA_BYTES_MIN = MIB

Report = Callable[[str], None]
Cell = tuple[str, int]


@dataclass(frozen=True, slots=True)
class CachePlan:
    """What is measured.

    Attributes
    ----------
    peers : tuple of str
        Empty: all that this machine has, in gets and sets only those with `Kind.speed`.
    cells : tuple of (str, int)
        Kinds and sizes of values, for gets and sets.
    memory_repeats : int
        Of entries and hits, whose accesses depend on nothing but a seed; the first of the `repeats`.
    seconds : float
        Of each pass of gets, and half of it of sets; with the repeats it is what a figure stands on.
    limit_bytes : int
        Memory of each peer where entries and hits are counted.
    accesses_times : float
        Accesses for each key where hits are counted.
    """

    peers: tuple[str, ...] = ()
    workloads: tuple[str, ...] = WORKLOADS
    cells: tuple[Cell, ...] = CELLS
    threads: tuple[int, ...] = (1, 8)
    repeats: int = 3
    memory_repeats: int = 1
    seconds: float = 0.35
    data_bytes: int = 32 * MIB
    limit_bytes: int = 16 * MIB
    accesses_times: float = 2.0
    source_bytes: int = cache_corpora.SOURCE_BYTES
    spoil: bool = False

    def check(self) -> None:
        """Raise UsageError where it makes no sense."""
        if min(self.repeats, self.memory_repeats) < 1 or not self.threads or min(self.threads) < 1:
            raise UsageError("--repeats and --threads must be 1 or more")
        if self.seconds <= 0 or self.accesses_times <= 0:
            raise UsageError("--seconds and --accesses must be more than 0")
        if self.limit_bytes < LIMIT_BYTES_MIN:
            raise UsageError("--limit must be 4M or more: libraries take some of it for themselves")
        if self.data_bytes < DATA_BYTES_MIN:
            raise UsageError("--data must be 1M or more")
        for known, names in ((PEERS, self.peers), (WORKLOADS, self.workloads)):
            for name in names:
                if name not in known:
                    raise UsageError(f"there is no {name!r}; there are {', '.join(known)}")
        for kind, size in self.cells:
            if kind not in VALUE_KINDS or not 256 <= size <= self.data_bytes // 16:
                raise UsageError(f"values {kind!r} of {size} bytes: the kinds are "
                                 f"{', '.join(VALUE_KINDS)}; 256 bytes to a sixteenth of --data")

    def speed_workloads(self) -> tuple[str, ...]:
        """Those in which everything fits."""
        return tuple(w for w in (GET, SET) if w in self.workloads)

    def hit_workloads(self) -> tuple[str, ...]:
        """Those in which the memory is limited."""
        return tuple(w for w in (ZIPF, SCAN) if w in self.workloads)

    def cells_of(self, value_kind: str) -> tuple[int, ...]:
        """The sizes of a kind of value."""
        return tuple(size for kind, size in self.cells if kind == value_kind)

    def kinds(self) -> tuple[str, ...]:
        """Kinds of values that take part, those for entries and hits included."""
        found = dict.fromkeys(kind for kind, _ in self.cells) if self.speed_workloads() else {}
        if set(self.workloads) & {ENTRIES, ZIPF, SCAN}:
            found.setdefault(JSON, None)
        return tuple(found)


def run(plan: CachePlan, report: Report = lambda line: None) -> Result:
    """Measure everything in `plan`, taking turns."""
    plan.check()
    with PostponedSignals() as signals:
        bench = _Bench(plan, signals, report)
        with _folders(plan) as (corpus, room):
            bench.prepare(corpus, room)
            for repeat in range(max(plan.repeats, plan.memory_repeats)):
                if repeat < plan.repeats:
                    bench.speed(repeat)
                if repeat < plan.memory_repeats:
                    bench.memory(repeat)
            return bench.result()


def wrong(result: Result) -> list[str]:
    """A sentence for each row with values that are not what was stored."""
    return [
        f"{row['peer']}, {row['workload']}, {row['value_kind']} of {row['value_bytes']}: "
        f"{row['wrong']} values were not what was stored, {row['lost']} were not there"
        for row in result.rows if row["wrong"] or row["lost"]
    ]


@contextmanager
def _folders(plan: CachePlan) -> Iterator[tuple[Path, Path]]:
    """One for the values, and one for the peers: in RAM, where there is room."""
    prefix = f"coldmem-cache-{os.getpid()}-"
    with (tempfile.TemporaryDirectory(prefix=prefix) as corpus,
          tempfile.TemporaryDirectory(prefix=prefix, dir=_room(plan)) as room):
        yield Path(corpus), Path(room)


def _room(plan: CachePlan) -> str | None:
    need = FREE_TIMES * (plan.limit_bytes + plan.data_bytes)
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:
        return None
    return SHARED_MEMORY if free >= need and os.access(SHARED_MEMORY, os.W_OK) else None


class _Bench:
    """One run: what was found so far, and who takes part."""

    def __init__(self, plan: CachePlan, signals: PostponedSignals, report: Report) -> None:
        self._plan = plan
        self._signals = signals
        self._report = report
        self._skipped: list[Row] = []
        self._failed: list[Row] = []
        self._rows: list[Row] = []
        self._limits: dict[str, int] = {}  # by each peer's own account
        self._keys = 0
        self._corpora: list[Row] = []
        self._peers: list[str] = []

    def prepare(self, corpus: Path, room: Path) -> None:
        """Find out who can run here, and make the values."""
        self._corpus, self._room = corpus, room
        for name in self._plan.peers or tuple(PEERS):
            reason = missing(name) or (cache_redis.missing() if name == REDIS else "")
            if reason:
                self._skipped.append({"peer": name, "reason": reason})
                self._report(f"SKIPPED: {name}: {reason}")
            else:
                self._peers.append(name)
        if not self._peers:
            raise EnvironmentFailure("none of the peers can run here: pip install 'coldmem[peers]'")
        self._report("making values")
        with self._signals.open():
            self._corpora = cache_corpora.write_corpora(
                self._plan.kinds(), corpus, self._plan.source_bytes)

    def speed(self, repeat: int) -> None:
        """Gets and sets of every peer once."""
        plan = self._plan
        if not plan.speed_workloads():
            return
        taking_part = [p for p in self._peers if plan.peers or PEERS[p].speed]
        for kind in dict.fromkeys(kind for kind, _ in plan.cells):
            for peer in _rotated(taking_part, repeat):
                self._rows += self._one(
                    repeat, self._case(peer, plan.speed_workloads(), kind, repeat))

    def memory(self, repeat: int) -> None:
        """Entries and hits of every peer once."""
        plan = self._plan
        if ENTRIES in plan.workloads or (plan.hit_workloads() and not self._limits):
            self._fill(repeat)
        for workload in plan.hit_workloads():
            for peer in _rotated([p for p in self._peers if p in self._limits], repeat):
                self._rows += self._within(repeat, self._case(peer, (workload,), JSON, repeat))

    def _within(self, repeat: int, case: CacheCase) -> list[Row]:
        """Hits of a peer that holds, by the kernel's account, about the limit: the nearest of a few."""
        best: list[Row] = []
        least = float("inf")
        for tries_left in reversed(range(OFF_MOST)):
            limit = self._limits[case.peer]
            rows = self._one(repeat, replace(case, own_limit_bytes=limit))
            if not rows:
                break
            held = int(str(rows[0]["held_bytes"]))
            off = abs(held / case.limit_bytes - 1)
            if off < least:
                best, least = rows, off
            if off <= OFF_SHARE or not tries_left:
                break
            self._limits[case.peer] = int(limit * case.limit_bytes / held)
            self._report(f"{case.peer} held {held / MIB:.1f} MiB; again with another limit")
        return best

    def _fill(self, repeat: int) -> None:
        """`ENTRIES`; in the first repeat it finds the limits, and how many keys there are to be."""
        shown = ENTRIES in self._plan.workloads
        peers = [p for p in self._peers if shown or PEERS[p].evicts]
        if DICT not in peers and self._plan.hit_workloads() and not self._keys:
            peers.append(DICT)  # it says how many keys there are
        for peer in _rotated(peers, repeat):
            rows = self._one(repeat, self._case(peer, (ENTRIES,), JSON, repeat))
            if shown and peer in self._peers:
                self._rows += rows
            for row in rows:
                entries, held, own = (int(str(row[k])) for k in ("entries", "held_bytes", "own_bytes"))
                if peer == DICT and not self._keys:
                    self._keys = KEYS_TIMES * entries
                if PEERS[peer].evicts:
                    self._limits.setdefault(peer, int(own * self._plan.limit_bytes / held))

    def _case(self, peer: str, workloads: Sequence[str], kind: str, repeat: int) -> CacheCase:
        plan = self._plan
        speed = workloads == plan.speed_workloads()
        return CacheCase(
            peer=peer, workloads=workloads, value_kind=kind,
            value_bytes=plan.cells_of(kind) if speed else (HIT_BYTES,), threads=plan.threads,
            corpus=str(self._corpus), folder="", seconds=plan.seconds, seed=repeat + 1,
            data_bytes=plan.data_bytes, limit_bytes=plan.limit_bytes, keys=self._keys,
            accesses=int(self._keys * plan.accesses_times), spoil=plan.spoil,
        )

    def _one(self, repeat: int, case: CacheCase) -> list[Row]:
        """The rows of one child."""
        what = f"{case.peer}, {' and '.join(case.workloads)}, {case.value_kind}"
        self._report(f"repeat {repeat + 1}: {what}")
        try:
            with self._surroundings(case) as ready, self._signals.open():
                found = run_child("coldmem.lab.cache_case", ready.to_json(), what, CHILD_S_MAX)
        except (KilledError, TooSlowError) as problem:
            self._failed.append({"peer": case.peer, "repeat": repeat + 1, "reason": str(problem)})
            self._report(str(problem))
            return []
        return [{**row, "repeat": repeat + 1} for row in found["rows"]]

    @contextmanager
    def _surroundings(self, case: CacheCase) -> Iterator[CacheCase]:
        """The folder, and the server where it takes one."""
        with tempfile.TemporaryDirectory(dir=self._room) as folder:
            if case.peer != REDIS:
                yield replace(case, folder=folder)
                return
            own = Path(folder, "server")
            own.mkdir()
            limit = case.own_limit_bytes
            if case.workloads == (ENTRIES,):
                limit = case.limit_bytes
            with RedisServer(own, limit) as server:
                yield replace(case, folder=folder, socket=server.socket, pid=server.pid)

    def result(self) -> Result:
        """What was measured: a row for each repeat."""
        plan = self._plan
        order = {name: n for n, name in enumerate(PEERS)}
        rows = sorted(self._rows, key=lambda row: (
            WORKLOADS.index(str(row["workload"])), VALUE_KINDS.index(str(row["value_kind"])),
            int(str(row["value_bytes"])), int(str(row["threads"])), order[str(row["peer"])]))
        return Result("bench_cache", {
            "repeats": plan.repeats, "memory_repeats": plan.memory_repeats,
            "seconds": plan.seconds, "data_bytes": plan.data_bytes,
            "limit_bytes": plan.limit_bytes, "keys": self._keys,
            "accesses": int(self._keys * plan.accesses_times),
            "in_ram": str(self._room).startswith(SHARED_MEMORY), "corpora": self._corpora,
            "skipped_peers": self._skipped, "failed": self._failed,
            "own_limits": [{"peer": p, "limit_bytes": n} for p, n in self._limits.items()],
        }, rows)


def _rotated(names: Sequence[str], by: int) -> list[str]:
    at = by * 3 % len(names) if names else 0
    return [*names[at:], *names[:at]]


