"""The model: what `scale_calibrate` measured, put together into operations for the simulation.

Owns nothing, takes no locks. An operation is the phases of lab/scale_work.py (malloc, write, read,
free), each lock-free work and holds of locks; what it costs to find the data where another core has
left it comes on top, in the phases and by the amounts that two threads in turns have shown.
Assumes: the shares of an operation's time are those seen with the objects of two cores, at any number;
the time itself is the one measured with the objects of so many.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coldmem.errors import UsageError
from coldmem.lab.arms import ARMS, Arm
from coldmem.lab.result import Row
from coldmem.lab.scale_calibrate import SPINS
from coldmem.lab.scale_simulation import Simulation

Step = tuple[str, float, float, float, float, float]  # as `Simulation` takes it
NAME = "lab_scale_calibration"
# The seed's migrate lock, one reader-writer lock in one cache line: simulated only.
LINE_ARM = "class_line"
MODEL_ARMS = (*ARMS, LINE_ARM)
LABELS = {name: what.label for name, what in ARMS.items()} | {
    LINE_ARM: "1 pool, class lock, migrate lock on one line"
}
WORKLOADS = ("alloc", "compact", "codec", "build")
PRIMITIVES = ("line_ns", "hand_over_lines", "spin_step_ns", "park_ns", "wake_ns", "wake_none_ns",
              "wake_latency_ns", "switch_ns", "slice_ns", "local_ns", "compress_ns", "decompress_ns")
PHASES = ("malloc", "write", "read", "free")
WORK_SHAPE, HOLD_SHAPE = 4, 4  # assumed; see the sensitivity in docs/scale.md
CORES_PER_CACHE = 8  # assumed: of the processor's cache complexes
COMPACTOR_SLEEP_NS = 560_000.0  # 500 us of alloc_work.py and the timer's slack


@dataclass(frozen=True)
class Mix:
    """How often each operation is done, and how popular the size classes are.

    Attributes
    ----------
    put, take, read, free : float
        Weights of: malloc and write; read and free; read; free.
    codec : bool
        A unit is compressed before it is put and decompressed after it is read.
    classes : tuple of float
        Weights, in any order.
    """

    put: float
    take: float
    read: float
    free: float
    codec: bool
    classes: tuple[float, ...]


class Calibration:
    """A calibration, looked at by the model.

    Parameters
    ----------
    content : mapping
        What ``coldmem lab scale --calibrate --json`` prints.

    Raises
    ------
    UsageError
        It is not a calibration, or lacks something.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        if content.get("name") != NAME or not isinstance(content.get("rows"), list):
            raise UsageError("not a calibration: make one with coldmem lab scale --calibrate")
        self._rows: dict[str, dict[str, list[Row]]] = {}
        for row in content["rows"]:
            self._rows.setdefault(row["kind"], {}).setdefault(row["name"], []).append(row)
        try:
            self.ns = {name: float(self._one("primitive", name)["ns"]) for name in PRIMITIVES}
            popularity: dict[str, float] = self._one("classes", "classes")["popularity"]
            self.classes = tuple(popularity.values())
            self.objects_per_core = int(content["settings"]["objects_per_core"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the calibration lacks {error}: make it again") from error
        if not self.classes or min(self.classes) < 0 or any(
                not value >= 0 for value in self.ns.values()):
            raise UsageError("the calibration has figures below 0: make it again")

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read a file that ``--calibrate`` has written."""
        try:
            content = json.loads(path.read_text())
        except OSError as error:
            raise UsageError(f"cannot read the calibration {path}: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"{path} is not JSON: make it with --calibrate") from error
        if not isinstance(content, dict):
            raise UsageError(f"{path} is not a calibration: make one with --calibrate")
        return cls(content)

    def _one(self, kind: str, name: str) -> Any:
        return self._rows[kind][name][0]

    def arms(self) -> tuple[str, ...]:
        """Arms that were calibrated."""
        there = self._rows.get("arm", {})
        return tuple(name for name in ARMS if name in there)

    def row(self, kind: str, arm: str) -> Row:
        """The row of an arm; `UsageError` when there is none."""
        try:
            found: Row = self._one(kind, arm)
        except KeyError as error:
            raise UsageError(
                f"the calibration has no {kind} of arm {arm!r}: make it again with that arm"
            ) from error
        return found

    def at(self, arm: str, key: str, population: float) -> float:
        """A figure of an arm's rows at any population: linear in its logarithm between two measured."""
        self.row("arm", arm)
        points = sorted((int(str(r["population"])), float(str(r[key])))
                        for r in self._rows["arm"][arm])
        if population <= points[0][0]:
            return points[0][1]
        for (low, before), (high, after) in zip(points, points[1:], strict=False):
            if population <= high:
                share = math.log(population / low) / math.log(high / low)
                return before + share * (after - before)
        return points[-1][1]

    def line_at(self, cores: int) -> float:
        """Mean cost of a line from another core, when `CORES_PER_CACHE` share a cache: the least cost
        that was measured among those, the most from the others.
        """
        row = self._one("primitive", "line_ns")
        near, far = float(row["ns_min"]), float(row["ns_max"])
        if cores <= CORES_PER_CACHE:
            return near
        neighbours = (CORES_PER_CACHE - 1) / (cores - 1)
        return near * neighbours + far * (1 - neighbours)

    def costs(self, line_ns: float) -> dict[str, float]:
        """`Simulation`'s costs of locks and threads, when a line costs so much."""
        ns = self.ns
        step = ns["spin_step_ns"]
        return {
            "spin_ns": SPINS * step, "spin_step_ns": step,
            # Of a hand-over one line is the holder's, who gets the word back to clear it, and one is
            # charged with the hold that follows; a quarter of a step is waited on average.
            "steal_ns": line_ns,
            "grab_ns": max(0.0, (ns["hand_over_lines"] - 2) * line_ns - step / 4),
            "park_ns": ns["park_ns"], "wake_ns": ns["wake_ns"], "wake_none_ns": ns["wake_none_ns"],
            "wake_latency_ns": ns["wake_latency_ns"], "switch_ns": ns["switch_ns"],
            "slice_ns": ns["slice_ns"],
        }


def base_arm(name: str) -> Arm:
    """The arm that was measured for one that is simulated."""
    return ARMS["class" if name == LINE_ARM else name]


@dataclass
class Phase:
    """One phase of an operation: how long, and which locks for how long, in nanoseconds."""

    name: str
    ns: float
    takes: dict[str, float]
    holds: dict[str, float]  # of one take
    remote: float

    def work(self) -> float:
        """What is left without the holds."""
        return max(0.0, self.ns - sum(self.takes[k] * self.holds[k] for k in self.takes))


def phases(
    calibration: Calibration, arm: str, population: float, line_ns: float, mood: float = 1.0
) -> tuple[float, dict[str, Phase]]:
    """Time of the loop around an operation, and the four phases, at a population.

    `mood`: all of it takes so many times as long.
    """
    what, shares = base_arm(arm), calibration.row("shares", base_arm(arm).name)
    turns = calibration.row("turns", what.name)
    op_ns = mood * calibration.at(what.name, "op_ns", population)
    main = "pool" if what.locking == "pool" else "class"
    main_takes = 2 * calibration.at(what.name, f"{main}_per_op", population)
    arena = calibration.at(what.name, "arena_per_op", population)
    cold = cold_in_turns(calibration.classes, what.pools_n)
    takes = {phase: 0.0 for phase in PHASES}
    if what.magazines:
        takes["malloc"] = takes["free"] = main_takes / 2
    elif main == "pool":
        takes |= {"write": 1.0, "read": 1.0, "free": 1.0, "malloc": max(1.0, main_takes - 3)}
    else:
        takes |= {"free": 1.0, "malloc": max(1.0, main_takes - 1)}
    found = {}
    for name in PHASES:
        ns = 2 * op_ns * float(str(shares[f"{name}_share"]))  # every other operation has this phase
        phase = Phase(name, ns, {}, {}, 0.0)
        for kind, n in ((main, takes[name]), ("arena", arena if name in ("malloc", "free") else 0.0)):
            if n > 0:
                phase.takes[kind] = n
                phase.holds[kind] = ns * float(str(shares[f"{name}_{kind}_held"])) / n
        lines = float(str(turns[f"{name}_lines"]))
        if arm == "pool" and name in ("malloc", "read"):
            lines -= 1  # the pool lock's own line, charged with the lock
        phase.remote = max(0.0, lines) * line_ns / cold
        found[name] = phase
    return op_ns * float(str(shares["loop_share"])), found


def cold_in_turns(classes: Sequence[float], pools: int) -> float:
    """Of two threads in turns: how often the other one was the last to use the same pool and class."""
    total = sum(classes)
    popularity = [c / total / pools for c in classes]
    return sum(pools * p / (2 - p) for p in popularity)


def _phase_steps(phase: Phase, arm: str, calibration: Calibration, line_ns: float) -> list[Step]:
    """Work first, then each lock as often as it is taken; remote cost where shared data is touched."""
    main = next((kind for kind in phase.takes if kind != "arena"), None)
    line = line_ns if arm == "pool" else 0.0
    held = 0.0
    if main is not None and not base_arm(arm).magazines:
        # malloc and free work on the lists of the class; the others take the lock only to look.
        held = phase.remote if phase.name in ("malloc", "free") else min(
            phase.remote, line_ns)
    steps: list[Step] = [("work", phase.work(), 1.0, 0.0, 0.0, phase.remote - held)]
    if arm in ("class", LINE_ARM) and phase.name != "malloc":
        steps.append(("read", 0.0, 1.0, calibration.ns["local_ns"], 0.0, 0.0))
    if arm == LINE_ARM and phase.name != "malloc":
        steps += [("line", 0.0, 1.0, 0.0, line_ns, 0.0)] * 2
    for kind, n in phase.takes.items():
        cost = line if kind == "pool" else line_ns if kind == "arena" else 0.0
        more = held if kind == main else 0.0
        while n > 0:
            steps.append((kind, 0.0, min(n, 1.0), phase.holds[kind], cost, more))
            n -= 1.0
            more = 0.0  # what the first hold has fetched is here
    return steps


def programs(
    calibration: Calibration, arm: str, population: float, mix: Mix, line_ns: float,
    mood: float = 1.0,
) -> tuple[list[list[Step]], list[float]]:
    """The operations put, take, read, free as steps, with weights; those never done are left out."""
    loop, by_name = phases(calibration, arm, population, line_ns, mood)
    begin: Step = ("work", loop, 1.0, 0.0, 0.0, 0.0)
    parts = {name: _phase_steps(phase, arm, calibration, line_ns) for name, phase in by_name.items()}
    pack: list[Step] = []
    unpack: list[Step] = []
    if mix.codec:
        pack = [("work", calibration.ns["compress_ns"], 1.0, 0.0, 0.0, 0.0)]
        unpack = [("work", calibration.ns["decompress_ns"], 1.0, 0.0, 0.0, 0.0)]
    made = (
        (mix.put, [begin, *pack, *parts["malloc"], *parts["write"]]),
        (mix.take, [begin, *parts["read"], *unpack, *parts["free"]]),
        (mix.read, [begin, *parts["read"], *unpack]),
        (mix.free, [begin, *parts["free"]]),
    )
    return [steps for weight, steps in made if weight > 0], [weight for weight, _ in made if weight > 0]


def compactor(
    calibration: Calibration, arm: str, ops_per_ns: float, line_ns: float
) -> list[Step]:
    """A compactor that finds, after each of its pauses, what so many operations left to do."""
    what = base_arm(arm)
    row = calibration.row("compact", what.name)
    holds = float(str(row["holds_per_op"])) * ops_per_ns * COMPACTOR_SLEEP_NS
    look: Step = ("work", float(str(row["look_ns"])), 1.0, 0.0, 0.0, 0.0)
    if holds <= 0:
        return [("sleep", 0.0, 1.0, COMPACTOR_SLEEP_NS, 0.0, 0.0), look]
    kind = "pool" if what.locking == "pool" else "write" if what.locking == "class" else "class"
    # One hold an operation, so that each goes to another class; it sleeps before one of so many.
    return [("sleep", 0.0, min(1.0, 1 / holds), COMPACTOR_SLEEP_NS, 0.0, 0.0), look,
            (kind, 0.0, min(1.0, holds), float(str(row["hold_ns"])), line_ns, 0.0)]


def simulate(
    calibration: Calibration, arm: str, threads: int, cores: int, mix: Mix, ops: int, *,
    compacting: bool = False, line_ns: float | None = None, mood: float = 1.0,
    seed: int = 1, **options: Any,
) -> dict[str, Any]:
    """Simulate one arm; `Simulation.run`'s result, and ``mops_per_s``."""
    line = calibration.line_at(cores) if line_ns is None else line_ns
    made, weights = programs(calibration, arm, threads, mix, line, mood)
    kind = {"classes": mix.classes, "pools": base_arm(arm).pools_n, "seed": seed,
            "costs": calibration.costs(line), "shapes": (WORK_SHAPE, HOLD_SHAPE), **options}
    found = Simulation(made, weights, threads, cores, **kind).run(ops)
    if compacting:
        helper = compactor(calibration, arm, found["ops"] / found["elapsed_ns"], line)
        found = Simulation(made, weights, threads, cores, helper=helper, **kind).run(ops)
    found["mops_per_s"] = 1e3 * found["ops"] / found["elapsed_ns"]
    return found


def mix_of(workload: str, calibration: Calibration) -> Mix:
    """The mix of a workload but ``build``, whose mix is that of a recorded trace."""
    if workload not in ("alloc", "compact", "codec"):
        raise UsageError(f"no workload is called {workload!r}; there are {', '.join(WORKLOADS)}")
    return Mix(1.0, 1.0, 0.0, 0.0, workload == "codec", calibration.classes)

