"""``bench programs``: whole programs on more data than fits, in coldmem and in what else there is.

Owns: one child process at a time, the folder for its files, and what `kernel_swap` sets up for it;
all of it is gone when it returns or raises, also on Ctrl-C. Guarantees: each run is in a process of
its own; systems and repeats take turns; what a program found is compared with what it found without
a limit.
Equal footprint: the kernel's systems run under a limit of a quarter of the data; what they and their
pool then really took is what coldmem gets as its `memory_max` and memmap as its limit, in the same
repeat (the smaller of the two; not less than the limit). Without the kernel they get the limit itself.
Where the kernel kills a program in its own swap, its limit is raised in steps until it does not.
A Memory holds NumPy's arrays only. What the program takes beside it counts too: where both together are
more than was allowed, the run does not count and is done again with a smaller `memory_max`.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import program_blosc2
from coldmem.lab.child import KilledError, TooSlowError, run_child
from coldmem.lab.kernel_swap import SWAP_TIMES, SYSTEMS, limited
from coldmem.lab.memory_case import COLDMEM, PAGE_BYTES, ZRAM, ZSWAP
from coldmem.lab.postponed import PostponedSignals
from coldmem.lab.program_case import BLOSC2, MEMMAP, NO_LIMIT, ProgramCase
from coldmem.lab.program_jobs import PROGRAMS
from coldmem.lab.program_rows import Attempt, rows_of
from coldmem.lab.result import Result, Row
from coldmem.linux.userfaultfd import rights_here
from coldmem.zswap.swapdir import default_directory

#: In the order of their turns: what the kernel takes is known when it is coldmem's.
SYSTEM_NAMES = (NO_LIMIT, ZSWAP, ZRAM, COLDMEM, MEMMAP, BLOSC2)
KERNEL = {system.name: system for system in SYSTEMS}
PACKAGES = {"sklearn": "scikit-learn"}
SIZE_BYTES = 256 << 20
SIZE_LIMITS = 4  # the limit is the size divided by this
SIZE_BYTES_MIN, LIMIT_BYTES_MIN = 32 << 20, 8 << 20
RUN_S_MAX = 120.0
GROWTH = (1.0, 1.0, 1.25, 1.5, 2.0, 3.0)  # of the kernel's limit, from one kill to the next
KILLED = {
    True: "killed with every limit up to three times the first: the kernel found nothing to take out",
    False: "killed: what cannot be in a file is more than the limit",
}
OVER_SHARE, OVER_MOST = 0.03, 2  # a footprint may be so much above what is allowed; else again, so often
MEMORY_BYTES_MIN = 8 << 20

Report = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class ProgramPlan:
    """What is measured. `NO_LIMIT` always takes part: the others are compared with it."""

    programs: tuple[str, ...] = tuple(PROGRAMS)
    systems: tuple[str, ...] = SYSTEM_NAMES
    repeats: int = 3
    size_bytes: int = SIZE_BYTES
    limit_bytes: int = SIZE_BYTES // SIZE_LIMITS
    run_s_max: float = RUN_S_MAX
    spoil: bool = False  # one result is changed before it is compared: it must show

    def check(self) -> None:
        """Raise UsageError where it makes no sense."""
        if self.repeats < 1:
            raise UsageError("--repeats must be 1 or more")
        if self.size_bytes < SIZE_BYTES_MIN:
            raise UsageError("--size must be 32M or more")
        if not LIMIT_BYTES_MIN <= self.limit_bytes < self.size_bytes:
            raise UsageError("--limit must be 8M or more, and less than the size")
        if self.run_s_max <= 0:
            raise UsageError("--seconds must be more than 0")


def run(plan: ProgramPlan, report: Report = lambda line: None) -> Result:
    """Measure everything in `plan`, taking turns."""
    plan.check()
    with PostponedSignals() as signals:
        bench = _Bench(plan, signals, report)
        bench.prepare()
        for repeat, program in itertools.product(range(plan.repeats), plan.programs):
            bench.turn(repeat, program)
        return bench.result()


def differing(result: Result) -> list[str]:
    """A sentence for each row whose result is not the one without a limit."""
    return [
        f"{row['program']} in {row['system']}: another result than without a limit"
        for row in result.rows if row["result"] == "differs"
    ]


class _Bench:
    """One run: what was found so far, and who takes part."""

    def __init__(self, plan: ProgramPlan, signals: PostponedSignals, report: Report) -> None:
        self._plan = plan
        self._signals = signals
        self._report = report
        self._systems = [n for n in SYSTEM_NAMES if n in plan.systems or n == NO_LIMIT]
        self._skipped: dict[str, str] = {}
        self._found: dict[tuple[str, str], list[Attempt]] = {
            (program, system): [] for program in plan.programs for system in self._systems
        }
        self._cannot: dict[tuple[str, str], str] = {}
        self._grown: dict[tuple[str, str], tuple[float, ...]] = {}  # steps of `GROWTH` still to take
        self._beside: dict[str, int] = {}  # program -> bytes that it takes beside its Memory

    def prepare(self) -> None:
        """Find out which systems can run here, and which programs in which of them."""
        for system in self._systems:
            reason = self._try(system)
            if reason:
                self._skipped[system] = reason
                self._report(f"SKIPPED: {system}: {reason}")
        for program, system in self._found:
            reason = self._skipped.get(system, "") or _missing(program)
            if system == BLOSC2:
                reason = reason or program_blosc2.CANNOT.get(program, "")
            if reason:
                self._cannot[program, system] = reason
                if system not in self._skipped:
                    self._report(f"SKIPPED: {program} in {system}: {reason}")

    def _try(self, system: str) -> str:
        """Why `system` cannot run here; empty: it can."""
        try:
            if system in KERNEL:
                with KERNEL[system].ready(self._plan.size_bytes, self._plan.limit_bytes):
                    pass
            elif system == MEMMAP:
                with limited(self._plan.limit_bytes):
                    pass
        except EnvironmentFailure as failure:
            return str(failure)
        if system == COLDMEM and rights_here() == "none":
            return "userfaultfd gives this process no rights at all: see `coldmem doctor`"
        if system == BLOSC2 and find_spec("blosc2") is None:
            return "blosc2 is not installed: pip install 'coldmem[programs]'"
        return ""

    def turn(self, repeat: int, program: str) -> None:
        """Every system once."""
        plan = self._plan
        footprints: list[int] = []
        for system in self._systems:
            if (program, system) in self._cannot:
                continue
            former = self._found[program, system]
            if former and former[-1].too_slow:
                former.append(former[-1])  # it would be so again
                continue
            self._report(f"{program}: {system}, repeat {repeat + 1}/{plan.repeats}")
            allowed = max(min(footprints, default=0), plan.limit_bytes)
            case = ProgramCase(system=system, program=program, size_bytes=plan.size_bytes,
                               memory_max_bytes=allowed, swap_max_bytes=SWAP_TIMES * plan.size_bytes)
            if system in KERNEL:
                attempt = self._grow(replace(case, memory_max_bytes=plan.limit_bytes))
                if attempt.found is not None:
                    footprints.append(int(attempt.found["footprint_peak_bytes"]))
            elif system == COLDMEM:
                attempt = self._within(case)
            else:
                attempt = self._attempt(case)
            if system in (NO_LIMIT, BLOSC2):
                attempt.allowed_bytes = None
            if attempt.failure:
                self._report(f"{program}: {system}: {attempt.failure}")
            if plan.spoil and system != NO_LIMIT and attempt.found is not None:
                attempt.found |= {"exact": "spoilt", "close": []}
            self._found[program, system].append(attempt)

    def _grow(self, case: ProgramCase) -> Attempt:
        """A run in the kernel's swap, under the smallest of the limits in which it survives."""
        killed = 0
        steps = self._grown.get((case.program, case.system), GROWTH)
        while True:
            limit = int(case.memory_max_bytes * steps[0]) // PAGE_BYTES * PAGE_BYTES
            attempt = self._attempt(replace(case, memory_max_bytes=limit))
            attempt.killed = killed = killed + attempt.killed
            if attempt.found is not None or len(steps) == 1 or attempt.too_slow:
                self._grown[case.program, case.system] = steps
                return attempt
            steps = steps[1:]

    def _within(self, case: ProgramCase) -> Attempt:
        """A run of coldmem that takes, all in all, about what is allowed."""
        allowed = case.memory_max_bytes
        for tries_left in reversed(range(OVER_MOST + 1)):
            beside = self._beside.get(case.program, 0)
            memory_max = max(allowed - beside, MEMORY_BYTES_MIN)
            attempt = self._attempt(replace(case, memory_max_bytes=memory_max))
            if attempt.found is None:
                break
            attempt.allowed_bytes = allowed
            attempt.found["memory_max_bytes"] = memory_max
            over = attempt.found["footprint_peak_bytes"] - allowed
            if over <= OVER_SHARE * allowed or memory_max == MEMORY_BYTES_MIN or not tries_left:
                break
            self._beside[case.program] = beside + over
            self._report(f"{case.program}: {over >> 20} MiB more than allowed; again with less")
        return attempt

    def _attempt(self, case: ProgramCase) -> Attempt:
        attempt = Attempt(allowed_bytes=case.memory_max_bytes)
        try:
            with self._surroundings(case) as ready, self._signals.open():
                attempt.found = run_child(
                    "coldmem.lab.program_case", ready.to_json(), f"{case.system}, {case.program}",
                    self._plan.run_s_max)
        except KilledError:
            attempt.killed = 1
            attempt.failure = KILLED[case.system in KERNEL]
        except TooSlowError:
            attempt.too_slow = True
            attempt.failure = f"not done after {self._plan.run_s_max:g} s"
        return attempt

    @contextmanager
    def _surroundings(self, case: ProgramCase) -> Iterator[ProgramCase]:
        """The cgroup, the swap and the folder that `case` needs."""
        fields: dict[str, Any] = {}
        if case.system in KERNEL:
            ready = KERNEL[case.system].ready(case.size_bytes, case.memory_max_bytes)
            with ready as fields:
                yield replace(case, **fields)
        elif case.system == MEMMAP:
            with limited(case.memory_max_bytes) as fields, _folder() as folder:
                yield replace(case, folder=folder, **fields)
        else:
            yield case

    def result(self) -> Result:
        """What was measured, as rows."""
        plan = self._plan
        settings: Row = {
            "size_bytes": plan.size_bytes, "limit_bytes": plan.limit_bytes, "repeats": plan.repeats,
            "run_s_max": plan.run_s_max, "skipped_systems": self._skipped,
        }
        rows: list[Row] = []
        for program in plan.programs:
            found = {s: self._found[program, s] for s in self._systems if s not in self._skipped}
            reasons = {s: self._cannot[program, s] for s in found if (program, s) in self._cannot}
            rows += rows_of(program, found, reasons)
        return Result("bench_programs", settings, rows)


@contextmanager
def _folder() -> Iterator[str]:
    """For files of arrays: on a disk, not in RAM."""
    with tempfile.TemporaryDirectory(prefix="coldmem-bench-", dir=default_directory()) as folder:
        yield str(Path(folder))


def _missing(program: str) -> str:
    needs = PROGRAMS[program].needs
    if not needs or find_spec(needs) is not None:
        return ""
    return f"{PACKAGES.get(needs, needs)} is not installed: pip install 'coldmem[programs]'"
