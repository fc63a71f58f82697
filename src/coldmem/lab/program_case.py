"""One case of ``bench programs``, in a process of its own: ``python -m coldmem.lab.program_case``.

Reads a `ProgramCase` as JSON from stdin, prints one object to stdout. Owns: the data, the Memory where
it is coldmem's turn, and files in the folder that it was given.
Guarantees: libraries are imported and have done a tiny job before anything is counted, so what they take
for themselves is in no system's time or footprint. Time and footprint are of making the data and of
the work on it. The result is read only after that.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from coldmem.lab import program_blosc2
from coldmem.lab.drive import Timing
from coldmem.lab.footprint import Fence, KernelPool, Sampler
from coldmem.lab.memory_case import COLDMEM, ZRAM, ZSWAP
from coldmem.lab.program_jobs import PROGRAMS, Empty, Outcome
from coldmem.linux.usage import (
    anonymous_bytes,
    machine_cpu_s,
    process_cpu_s,
    process_faults,
    swapped_bytes,
)
from coldmem.memory.memory import Memory

NO_LIMIT, MEMMAP, BLOSC2 = "no-limit", "memmap", "blosc2"
TINY_BYTES = 1 << 20
DIGEST_BYTES = 1 << 20  # read at a time


@dataclass(frozen=True, slots=True)
class ProgramCase(Fence):
    """What the child is to do.

    Attributes
    ----------
    memory_max_bytes, swap_max_bytes : int
        Of the Memory; not used by the others.
    folder : str
        Where a swap file or files of arrays go.
    codec : str
        Of the kernel's systems, for the record.
    """

    system: str
    program: str
    size_bytes: int
    seed: int = 1
    memory_max_bytes: int = 0
    swap_max_bytes: int = 0
    folder: str = ""
    codec: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class _Files:
    """Makes arrays that are files; `close` removes them."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._numbers = itertools.count()

    def __call__(self, shape: tuple[int, ...], kind: str) -> Any:
        path = self._folder / f"array{next(self._numbers)}.npy"
        return np.lib.format.open_memmap(path, "w+", np.dtype(kind), shape)

    def close(self) -> None:
        for path in self._folder.glob("array*.npy"):
            path.unlink()


@dataclass
class _Run:
    """What was found, and how long it took."""

    outcome: Outcome
    make_s: float
    timing: Timing
    faults: int


def _plain(shape: tuple[int, ...], kind: str) -> Any:
    return np.empty(shape, np.dtype(kind))


def _job(case: ProgramCase, size_bytes: int) -> Callable[[], _Run]:
    """The program, ready to run: the same for all systems but those that have arrays of their own."""
    program = PROGRAMS[case.program]
    empty: Empty = _plain
    work: Callable[[Any], Outcome] = program.work
    if case.system == MEMMAP:
        files = empty = _Files(case.folder)
        work = lambda data: program.work_in_files(data, files)  # noqa: E731
    elif case.system == BLOSC2:
        empty, work = program_blosc2.empty, program_blosc2.WORK[case.program]

    def run() -> _Run:
        faults, busy, cpu = process_faults()[1], machine_cpu_s(), process_cpu_s()
        start_s = time.monotonic()
        data = program.make(empty, size_bytes, case.seed)
        made_s = time.monotonic()
        outcome = work(data)
        end_s, cpu_after, busy_after = time.monotonic(), process_cpu_s(), machine_cpu_s()
        user, system = (after - before for after, before in zip(cpu_after, cpu, strict=True))
        foreign = None
        if busy is not None and busy_after is not None:
            foreign = max(0.0, busy_after - busy - user - system)
        timing = Timing(end_s - start_s, user, system, foreign)
        return _Run(outcome, made_s - start_s, timing, process_faults()[1] - faults)

    return run


def _warm_up(case: ProgramCase) -> None:
    """Imports, thread pools and buffers of the libraries, by a tiny job."""
    _job(case, TINY_BYTES)()
    if case.system == MEMMAP:
        _Files(case.folder).close()


def _in_coldmem(case: ProgramCase) -> tuple[_Run, dict[str, Any]]:
    before = anonymous_bytes()
    memory = Memory(case.memory_max_bytes, case.swap_max_bytes, directory=case.folder or None)
    with Sampler(lambda: anonymous_bytes() - before) as sampler, memory:
        run = _job(case, case.size_bytes)()
    stats = memory.stats()
    run.faults = stats["faults"]
    counters = {key: value for key, value in stats.items() if isinstance(value, int)}
    return run, {
        "footprint_peak_bytes": sampler.peak_bytes,
        "compressed_bytes": stats["compressed_bytes"],
        "swap_bytes": stats["swap_bytes"],
        "delivery": memory.delivery,
        "counters": {key: value for key, value in counters.items() if not key.endswith("_max_bytes")},
    }


def _in_cgroup(case: ProgramCase) -> tuple[_Run, dict[str, Any]]:
    pool = KernelPool(case)
    case.join()
    with Sampler(pool.footprint) as sampler:
        run = _job(case, case.size_bytes)()
    original, used = pool.sizes()
    case.lift()
    return run, {
        "footprint_peak_bytes": sampler.peak_bytes,
        "compressed_bytes": used if case.system in (ZSWAP, ZRAM) else 0,
        "swap_bytes": max(swapped_bytes() - original, 0),
        "codec": case.codec or None,
    }


def _alone(case: ProgramCase) -> tuple[_Run, dict[str, Any]]:
    before = anonymous_bytes()
    with Sampler(lambda: anonymous_bytes() - before) as sampler:
        run = _job(case, case.size_bytes)()
    return run, {"footprint_peak_bytes": sampler.peak_bytes, "compressed_bytes": 0, "swap_bytes": 0}


def digest(arrays: Iterable[Any]) -> str:
    """Of all bytes of `arrays`, read a piece at a time, with their types and shapes."""
    state = hashlib.blake2b(digest_size=16)
    for array in arrays:
        state.update(f"{array.dtype.str}{tuple(array.shape)}".encode())
        row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
        step = max(DIGEST_BYTES // row_bytes, 1)
        for at in range(0, len(array), step):
            state.update(np.ascontiguousarray(array[at : at + step]).tobytes())
    return state.hexdigest()


def run(case: ProgramCase) -> dict[str, Any]:
    """Measure `case` in this process."""
    _warm_up(case)
    if case.system == COLDMEM:
        found, more = _in_coldmem(case)
    elif case.join_path:
        found, more = _in_cgroup(case)
    else:
        found, more = _alone(case)
    outcome = found.outcome
    return {
        "seconds": found.timing.real_s,
        "make_s": found.make_s,
        "work_s": found.timing.real_s - found.make_s,
        "user_s": found.timing.user_s,
        "sys_s": found.timing.sys_s,
        "disturbed": found.timing.disturbed,
        "faults": found.faults,
        **more,
        "exact": digest(outcome.exact) if outcome.exact else None,
        "close": [float(x) for part in outcome.close for x in np.ravel(part)],
    }


if __name__ == "__main__":
    print(json.dumps(run(ProgramCase(**json.load(sys.stdin)))))
