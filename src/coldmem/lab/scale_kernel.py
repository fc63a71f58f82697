"""The seed's own table, asked of the model: what one pool with one lock costs a kernel build.

Owns nothing, takes no locks. Sources and assumptions are apart: `SOURCES` are published or measured
figures, `ASSUMED` is what nobody has published, and `sensitivity` shows what the answer makes of it.
The locks are the kernel's spinlocks here: handed on in order, waiting burns system time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from coldmem.lab.result import Row, rounded
from coldmem.lab.scale_simulation import Simulation

# Seconds of the seed's patch (2024): make bzImage -j32 in a tmpfs, memory.max=1GB, zswap.
TABLE = {"pools32": (138.18, 1241.38, 1452.73), "pool": (149.45, 1240.45, 1844.69),
         "class": (138.23, 1242.37, 1469.71)}
SOURCES = {
    "malloc_share": 1.81 / 16.73,  # of the cycles of a zswap store, with 32 pools (the patch of 2023)
    "map_share": 0.59 / 16.73,  # the same, of zs_map_object; loads are in it too
    "store_ns": 10_000.0,  # swap-out of a page, Linux 6.18 with zswap lzo on 2 CPUs, measured
    # The seed's build with a tree of 6.1, tinyconfig, on 2 CPUs under 1 GiB, measured:
    "sys_share_without_swap": 22.5 / 124.0,  # of user time, without a limit
    "sys_ns_per_page": (49.5 - 22.5) * 1e9 / 1.475e6,  # per page out or in, of what swapping adds
    "out_share": 1.155 / 1.475,  # of the pages moved
}
EXPECTED = {"pool": 0.270, "class": 0.012}


@dataclass(frozen=True)
class Assumed:
    """What is not published.

    Attributes
    ----------
    free_of_malloc : float
        Hold of zs_free, in times of that of zs_malloc.
    held : float
        Share of zs_malloc and zs_map_object in which the lock is held.
    line_ns : float
        A cache line from core to core, on that machine.
    hold_factor : float
        All holds in times of what the sources give.
    """

    free_of_malloc: float = 0.5
    held: float = 1.0
    line_ns: float = 100.0
    hold_factor: float = 1.0


ASSUMED = Assumed()


@dataclass(frozen=True)
class Demand:
    """What the build asks of the allocator."""

    cpus: int  # that are busy on average
    operations: float  # stores, loads and frees of the whole build
    mix: tuple[float, float, float]
    cpu_ns: float  # of one operation, everything of the build included, with 32 pools


def demand() -> Demand:
    """From the row of the 32 pools and the sources."""
    real, user, system = TABLE["pools32"]
    swapping = system - SOURCES["sys_share_without_swap"] * user
    pages = swapping * 1e9 / SOURCES["sys_ns_per_page"]
    stores, loads = pages * SOURCES["out_share"], pages * (1 - SOURCES["out_share"])
    total = 2 * stores + loads
    return Demand(round((user + system) / real), total, (stores, loads, stores),
                  (user + system) * 1e9 / total)


def build(arm: str, classes: Sequence[float], assumed: Assumed, ops: int, seed: int = 1) -> float:
    """CPU nanoseconds per operation of the build in one arm.

    What locks take is simulated; what is done without one is put in as its mean, since a per cent of
    chance in it would hide what class locks cost.
    """
    asked = demand()
    malloc = SOURCES["malloc_share"] * SOURCES["store_ns"] * assumed.held * assumed.hold_factor
    loads_too = 1 + asked.mix[1] / asked.mix[0]
    look = SOURCES["map_share"] * SOURCES["store_ns"] / loads_too * assumed.held * assumed.hold_factor
    free = malloc * assumed.free_of_malloc
    weights = sum(asked.mix)
    held = (asked.mix[0] * (malloc + look) + asked.mix[1] * look + asked.mix[2] * free) / weights
    think = ("work", asked.cpu_ns - held, 1.0, 0.0, 0.0, 0.0)
    line = assumed.line_ns
    if arm == "class":
        # The seed's migrate lock is one word: read, lock and unlock, before a map and before a free.
        touch = [("line", 0.0, 1.0, 0.0, line, 0.0)] * 2
        lock = [("class", 0.0, 1.0, malloc, line, 0.0)]
        # The map itself holds nothing that others want: a zspage's reader count.
        view: list[Any] = [*touch, ("work", look, 1.0, 0.0, 0.0, 0.0)]
        gone: list[Any] = [*touch, ("class", 0.0, 1.0, free, line, 0.0)]
    else:
        lock = [("pool", 0.0, 1.0, malloc, line, 0.0)]
        view = [("pool", 0.0, 1.0, look, line, 0.0)]
        gone = [("pool", 0.0, 1.0, free, line, 0.0)]
    programs = [[think, *lock, *view], [think, *view], [think, *gone]]
    found = Simulation(
        programs, asked.mix, asked.cpus, asked.cpus, classes, 32 if arm == "pools32" else 1,
        costs={"grab_ns": line}, shapes=(1, 4), fifo=True, seed=seed,
    ).run(ops)
    locks: float = sum(ns for mode, ns in found["spent_ns"].items() if mode != "work")
    free_work: float = sum(weight * sum(step[1] for step in steps)
                    for weight, steps in zip(asked.mix, programs, strict=True)) / weights
    return free_work + locks / int(found["ops"])


def added(classes: Sequence[float], assumed: Assumed, ops: int) -> dict[str, float]:
    """System time of each arm over that of the 32 pools, less 1."""
    asked = demand()
    base = build("pools32", classes, assumed, ops)
    system = TABLE["pools32"][2]
    return {arm: (build(arm, classes, assumed, ops) - base) * asked.operations / 1e9 / system
            for arm in ("pool", "class")}


def fitted_factor(classes: Sequence[float], assumed: Assumed, ops: int) -> float:
    """The `hold_factor` with which one pool comes to the kernel's +27 %."""
    low, high = 0.1, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        if added(classes, replace(assumed, hold_factor=middle), ops)["pool"] < EXPECTED["pool"]:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def rows(classes: Sequence[float], ops: int) -> list[Row]:
    """The table, and its sensitivity."""
    asked = demand()
    found = added(classes, ASSUMED, ops)
    out: list[Row] = []
    for arm, (real, user, system) in TABLE.items():
        more = found.get(arm, 0.0)
        out.append({
            "part": "kernel", "arm": arm, "kernel_real_s": real, "kernel_user_s": user,
            "kernel_sys_s": system, "kernel_sys_added": rounded(system / TABLE["pools32"][2] - 1),
            "model_sys_s": rounded(TABLE["pools32"][2] * (1 + more), 6),
            "model_sys_added": rounded(more), "busy_cpus": asked.cpus,
            "operations_per_s": rounded(asked.operations / TABLE["pools32"][0]),
        })
    factor = fitted_factor(classes, ASSUMED, ops)
    cases = [ASSUMED, replace(ASSUMED, hold_factor=factor)]
    cases += [replace(ASSUMED, free_of_malloc=value) for value in (0.25, 1.0)]
    cases += [replace(ASSUMED, held=value) for value in (0.5, 0.75)]
    cases += [replace(ASSUMED, line_ns=value) for value in (0.0, 50.0, 200.0)]
    for case in cases:
        more_by_arm = added(classes, case, ops)
        out.append({
            "part": "kernel_sensitivity", "hold_factor": rounded(case.hold_factor),
            "free_of_malloc": case.free_of_malloc, "held": case.held, "line_ns": case.line_ns,
            "pool_sys_added": rounded(more_by_arm["pool"]),
            "class_sys_added": rounded(more_by_arm["class"]), "fitted": case.hold_factor == factor,
        })
    return out
