"""One peer of ``bench cache`` at work, in a process of its own: ``python -m coldmem.lab.cache_case``.

Reads a `CacheCase` as JSON from stdin, prints ``{"rows": [...]}`` to stdout. Owns: the peer, and files
in the folder that it was given. Guarantees: the peer's modules are imported and have stored something
before anything is counted. Of all that is read in loops one of `SAMPLE` is compared with what was
stored; in the speed workloads everything fits, so what is not found is as wrong as a wrong value.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from coldmem.errors import UsageError
from coldmem.lab import cache_access, cache_corpora
from coldmem.lab.cache_peers import PEERS, Opening, Peer, Value, open_peer
from coldmem.lab.result import Row, rounded
from coldmem.linux.usage import machine_cpu_s, other_cpu_s, process_cpu_s

GET, SET, ENTRIES, ZIPF, SCAN = "get", "set", "entries", "zipf", "scan"
WORKLOADS = (GET, SET, ENTRIES, ZIPF, SCAN)
SAMPLE = 64  # of so many values one is compared
DRAWS = 1 << 16  # accesses of a thread before they repeat
ENTRIES_MIN = 64
LATENCY_SHARE = 0.3  # of the seconds, for the pass that times each get
LATENCIES_MAX = 200_000
SETS_SHARE = 0.5  # of the seconds, for a pass of sets
WARM_SHARE = 2 / 3  # of the accesses; they fill the cache before hits are counted
FILL_STEP = 256  # entries between two looks at what is held
SHARE_FOREIGN = 0.04  # of all CPUs' time: more than that, used by others, is a disturbance
OVERFULL = 3  # a fill ends at so many times its limit, whatever the peer says


@dataclass(frozen=True, slots=True)
class CacheCase:
    """What the child is to do.

    Attributes
    ----------
    workloads : sequence of str
        `GET` and `SET` together, or one of the others.
    value_bytes : sequence of int
        Sizes, one after the other.
    data_bytes : int
        Of all values of a speed workload.
    limit_bytes : int
        By the kernel's account: where a fill ends.
    own_limit_bytes : int
        By the peer's account: what it is given in `ZIPF` and `SCAN`.
    keys, accesses : int
        Of `ZIPF` and `SCAN`; `WARM_SHARE` of the accesses come before hits are counted.
    corpus, folder, socket : str
        Where the values are; an empty folder for the peer; Redis' socket.
    pid : int
        Of the Redis server.
    spoil : bool
        What is read is changed: it must show.
    """

    peer: str
    workloads: Sequence[str]
    value_kind: str
    value_bytes: Sequence[int]
    threads: Sequence[int]
    corpus: str
    folder: str
    seconds: float = 1.0
    seed: int = 1
    data_bytes: int = 32 << 20
    limit_bytes: int = 32 << 20
    own_limit_bytes: int = 0
    keys: int = 0
    accesses: int = 0
    socket: str = ""
    pid: int = 0
    spoil: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def opening(self, name: str, limit_bytes: int = 0) -> Opening:
        """For the peer, in a folder `name` of its own."""
        folder = Path(self.folder, name)
        folder.mkdir()
        return Opening(self.value_kind, limit_bytes, folder, self.socket, self.pid,
                       lru=bool(limit_bytes))


def key_of(number: int) -> str:
    """As the keys of services are: short, with a part that they share."""
    return f"search:{number:09d}"


def equal(value: Value, other: Value) -> bool:
    """In type and in every byte."""
    if isinstance(value, bytes):
        return type(other) is bytes and value == other
    return (type(value) is type(other) and value.dtype == other.dtype and value.shape == other.shape
            and value.tobytes() == other.tobytes())


def changed(value: Value) -> Value:
    """With one other byte."""
    if isinstance(value, bytes):
        return value[:-1] + bytes([value[-1] ^ 1])
    value = value.copy()
    value.view("u1")[-1] ^= 1
    return value


class _Checked:
    """Counts what is not as it was stored."""

    def __init__(self) -> None:
        self.wrong = 0  # += is no single step, but 0 stays 0, and that is all that counts
        self.lost = 0

    def look(self, found: Value | None, stored: Value) -> None:
        if found is None:
            self.lost += 1
        elif not equal(stored, found):
            self.wrong += 1


@dataclass(slots=True)
class _Turn:
    """What one thread did."""

    count: int = 0
    start_ns: int = 0
    end_ns: int = 0


Loop = Callable[[Sequence[int], int, _Turn], None]


class _Speed:
    """A full peer, and loops over it.

    Keys and values of all entries are at hand, so that a loop makes none.
    """

    def __init__(self, case: CacheCase, value_bytes: int) -> None:
        value_of = cache_corpora.load(case.value_kind, value_bytes, Path(case.corpus))
        count = max(case.data_bytes // value_bytes, ENTRIES_MIN)
        self.keys = [key_of(number) for number in range(count)]
        self.values = [value_of(number) for number in range(count)]
        self.checked = _Checked()
        self.latencies_ns: list[int] = []
        self._draws: list[list[int]] = []  # of each thread
        self._case = case
        self._how = case.opening(f"speed{value_bytes}")
        self._peer = open_peer(case.peer, self._how)
        self._get = spoilt(self._peer.get) if case.spoil else self._peer.get

    def __enter__(self) -> _Speed:
        for key, value in zip(self.keys, self.values, strict=True):
            self._peer.set(key, value)
        return self

    def __exit__(self, *exc: object) -> None:
        self._peer.close()

    def gets(self, draws: Sequence[int], until_ns: int, turn: _Turn) -> None:
        """As many as there is time for."""
        get, keys, now = self._get, self.keys, time.perf_counter_ns
        look, values = self.checked.look, self.values
        found: Value | None = None
        while True:
            for start in range(0, len(draws), SAMPLE):
                batch = draws[start : start + SAMPLE]
                for number in batch:
                    found = get(keys[number])
                    if found is None:
                        self.checked.lost += 1
                turn.count += len(batch)
                look(found, values[number])
                if now() >= until_ns:
                    return

    def sets(self, draws: Sequence[int], until_ns: int, turn: _Turn) -> None:
        """Every key keeps its value: what is read later can be compared."""
        put, keys, values, now = self._peer.set, self.keys, self.values, time.perf_counter_ns
        while True:
            for start in range(0, len(draws), SAMPLE):
                batch = draws[start : start + SAMPLE]
                for number in batch:
                    put(keys[number], values[number])
                turn.count += len(batch)
                if now() >= until_ns:
                    return

    def timed_gets(self, draws: Sequence[int], until_ns: int, turn: _Turn) -> None:
        """Each by itself; the clock's own time, about 0.1 us, is in it."""
        get, keys, now = self._get, self.keys, time.perf_counter_ns
        times = []
        for number in itertools.islice(itertools.cycle(draws), LATENCIES_MAX):
            start_ns = now()
            get(keys[number])
            end_ns = now()
            times.append(end_ns - start_ns)
            if end_ns >= until_ns:
                break
        self.latencies_ns += times

    def run(self, loop: Loop, threads: int, seconds: float) -> tuple[float, bool]:
        """Loops of so many threads at once: operations per second, and whether it was disturbed."""
        turns = [_Turn() for _ in range(threads)]
        for number in range(len(self._draws), threads):
            drawn = cache_access.zipf(DRAWS, len(self.keys), self._case.seed * 100 + number)
            self._draws.append(drawn.tolist())
        gate = threading.Barrier(threads)
        problems: list[BaseException] = []

        def work(number: int) -> None:
            try:
                gate.wait()
                turn = turns[number]
                turn.start_ns = time.perf_counter_ns()
                loop(self._draws[number], turn.start_ns + int(seconds * 1e9), turn)
                turn.end_ns = time.perf_counter_ns()
            except BaseException as problem:
                problems.append(problem)

        crew = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(1, threads)]
        for thread in crew:
            thread.start()
        busy, own = machine_cpu_s(), self._own_cpu_s()
        work(0)
        for thread in crew:
            thread.join()
        busy_after, own = machine_cpu_s(), self._own_cpu_s() - own
        if problems:
            raise problems[0]
        took_s = (max(t.end_ns for t in turns) - min(t.start_ns for t in turns)) / 1e9
        foreign = 0.0 if busy is None or busy_after is None else busy_after - busy - own
        disturbed = foreign > SHARE_FOREIGN * took_s * (os.cpu_count() or 1) + 0.03
        return sum(t.count for t in turns) / took_s, disturbed

    def _own_cpu_s(self) -> float:
        return sum(process_cpu_s()) + (other_cpu_s(self._case.pid) if self._case.pid else 0.0)


def spoilt(get: Callable[[str], Value | None]) -> Callable[[str], Value | None]:
    """`get`, with another last byte in all that it finds."""
    def changing(key: str) -> Value | None:
        found = get(key)
        return None if found is None else changed(found)

    return changing


def _row(case: CacheCase, workload: str, value_bytes: int, threads: int, **figures: Any) -> Row:
    row: Row = {
        "peer": case.peer, "workload": workload, "value_kind": case.value_kind,
        "value_bytes": value_bytes, "threads": threads, "ops_per_s": None, "get_p50_us": None,
        "get_p99_us": None, "bytes_per_entry": None, "hit_ratio": None, "entries": None,
        "held_bytes": None, "own_bytes": None, "wrong": 0, "lost": 0, "disturbed": False,
    }
    return row | {key: rounded(v) if isinstance(v, float) else v for key, v in figures.items()}


def _percentile_us(times_ns: list[int], share: float) -> float:
    return times_ns[min(int(len(times_ns) * share), len(times_ns) - 1)] / 1000


def _speed(case: CacheCase) -> list[Row]:
    rows = []
    for value_bytes in case.value_bytes:
        with _Speed(case, value_bytes) as speed:
            for workload, threads in itertools.product((GET, SET), case.threads):
                if workload not in case.workloads:
                    continue
                more: dict[str, Any] = {"entries": len(speed.keys)}
                loop = speed.gets if workload == GET else speed.sets
                share = 1.0 if workload == GET else SETS_SHARE
                rate, disturbed = speed.run(loop, threads, case.seconds * share)
                if workload == GET:
                    speed.latencies_ns.clear()
                    speed.run(speed.timed_gets, threads, case.seconds * LATENCY_SHARE)
                    times = sorted(speed.latencies_ns)
                    more |= {"get_p50_us": _percentile_us(times, 0.5),
                             "get_p99_us": _percentile_us(times, 0.99)}
                else:
                    speed.run(speed.gets, 1, 0.0)  # a batch at least: what was set can be read
                more |= {"wrong": speed.checked.wrong, "lost": speed.checked.lost}
                speed.checked = _Checked()
                rows.append(_row(case, workload, value_bytes, threads, ops_per_s=rate,
                                 disturbed=disturbed, **more))
    return rows


def _warm_up(case: CacheCase, value_of: Callable[[int], Value]) -> None:
    """Imports, buffers and what else a library takes once."""
    how = case.opening("warm")
    peer = open_peer(case.peer, how)
    for number in range(ENTRIES_MIN):
        peer.set(key_of(number), value_of(number))
        peer.get(key_of(number))
    peer.close()
    gc.collect()


class _Held:
    """What the kernel says that the peer has taken since."""

    def __init__(self, how: Opening) -> None:
        self._how = how
        self._before = how.held_bytes()

    def __call__(self) -> int:
        return self._how.held_bytes() - self._before


def _entries(case: CacheCase) -> list[Row]:
    """Fill to the limit: the kernel's account decides, or the peer does, where it has a limit of all."""
    (value_bytes,) = case.value_bytes
    value_of = cache_corpora.load(case.value_kind, value_bytes, Path(case.corpus))
    _warm_up(case, value_of)
    own = PEERS[case.peer].own_limit
    how = case.opening("fill", case.limit_bytes if own else 0)
    held = _Held(how)
    peer = open_peer(case.peer, how)
    count, start_s = 0, time.perf_counter()
    while True:
        for number in range(count, count + FILL_STEP):
            peer.set(key_of(number), value_of(number))
        count += FILL_STEP
        taken = held()
        if peer.full() if own else taken >= case.limit_bytes:
            break
        if taken > OVERFULL * case.limit_bytes:
            break
    took_s = time.perf_counter() - start_s
    entries, used, taken = peer.entries(), peer.used_bytes(), held()
    checked = _read_back(case, peer, count, value_of)
    peer.close()
    return [_row(case, ENTRIES, value_bytes, 1, ops_per_s=count / took_s, entries=entries,
                 bytes_per_entry=taken / entries, held_bytes=taken, own_bytes=used,
                 wrong=checked.wrong, lost=max(checked.lost - (count - entries), 0))]


def _read_back(
    case: CacheCase, peer: Peer, count: int, value_of: Callable[[int], Value]
) -> _Checked:
    checked = _Checked()
    get = spoilt(peer.get) if case.spoil else peer.get
    for number in range(0, count, SAMPLE):
        checked.look(get(key_of(number)), value_of(number))
    return checked


def _hits(case: CacheCase) -> list[Row]:
    """Get, or make and set; what comes after the first accesses counts."""
    (value_bytes,), (workload,) = case.value_bytes, case.workloads
    value_of = cache_corpora.load(case.value_kind, value_bytes, Path(case.corpus))
    draw = cache_access.zipf if workload == ZIPF else cache_access.scan_mixed
    warm = int(case.accesses * WARM_SHARE)
    numbers = draw(case.accesses, case.keys, case.seed).tolist()
    parts = numbers[:warm], numbers[warm:]
    del numbers
    _warm_up(case, value_of)
    how = case.opening("hits", case.own_limit_bytes)
    held = _Held(how)
    peer = open_peer(case.peer, how)
    get, put = spoilt(peer.get) if case.spoil else peer.get, peer.set
    checked = _Checked()
    for part in parts:
        hits, start_s = 0, time.perf_counter()
        for number in part:
            key = key_of(number)
            found = get(key)
            if found is None:
                put(key, value_of(number))
                continue
            hits += 1
            if not hits % SAMPLE:
                checked.look(found, value_of(number))
        took_s = time.perf_counter() - start_s
    entries, used, taken = peer.entries(), peer.used_bytes(), held()
    peer.close()
    return [_row(case, workload, value_bytes, 1, ops_per_s=len(part) / took_s,
                 hit_ratio=hits / len(part), entries=entries, bytes_per_entry=taken / entries,
                 held_bytes=taken, own_bytes=used, wrong=checked.wrong)]


def run(case: CacheCase) -> list[Row]:
    """Do `case` in this process."""
    kinds = set(case.workloads)
    if not kinds or not kinds <= set(WORKLOADS):
        raise UsageError(f"workloads must be some of {', '.join(WORKLOADS)}")
    if kinds <= {GET, SET}:
        return _speed(case)
    return _entries(case) if kinds == {ENTRIES} else _hits(case)


if __name__ == "__main__":
    print(json.dumps({"rows": run(CacheCase(**json.load(sys.stdin)))}))
