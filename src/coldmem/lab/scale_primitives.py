"""What locks are made of, measured: atomic words, futex calls, hand-overs, changes of threads.

Owns nothing, takes no locks; threads and their words are those of scale_bench and scale_micro.
Guarantees: every row says how its figure was found. Figures of two threads that meet are in times of
what a cache line takes from CPU to CPU at that moment.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from coldmem.lab.result import Row, rounded
from coldmem.lab.scale_bench import cpus, together, wanted_runs
from coldmem.lab.scale_micro import Meeting

ALONE_ROUNDS = 20_000
LINE_DRIFT_MAX = 1.3
LINE_RUNS = 5


def figure(name: str, values: Sequence[float], how: str, disturbed: int = 0) -> Row:
    """The row of one figure: its median and spread, and how it was found."""
    return {
        "kind": "primitive", "name": name, "ns": rounded(statistics.median(values)),
        "ns_min": rounded(min(values)), "ns_max": rounded(max(values)), "runs": len(values),
        "disturbed_runs": disturbed, "how": how,
    }


def line_ns(rounds: int = 10_000) -> float:
    """Nanoseconds that a cache line takes from one CPU to the other, now: half a round trip.

    A virtual machine's CPUs may be neighbours at one moment and far apart at the next, so this goes
    with each measurement of two threads. It is the median of short runs: one in which a thread lost its
    CPU takes a thousand times as long.
    """
    def one() -> float:
        meeting = Meeting()
        ran = together([partial(meeting.ping, i, rounds) for i in (0, 1)], cpus(2), meeting.stop)
        return float(max(ran.results)) / (2 * rounds)

    return statistics.median(one() for _ in range(LINE_RUNS))


def with_line(measure: Callable[[], tuple[Any, float]]) -> tuple[tuple[Any, float], float]:
    """A run with the cost of a line around it; one during which that has changed does not count."""
    before = line_ns()
    result, share = measure()
    after = line_ns()
    steady = max(before, after) <= LINE_DRIFT_MAX * min(before, after)
    return (result, (before + after) / 2), share if steady else 0.0


def primitives(n: int, tries: int) -> list[Row]:
    """A row for each piece of a lock, each measured `n` times out of `tries`."""
    two = cpus(2)

    def alone() -> tuple[tuple[float, ...], float]:
        meeting = Meeting()
        ran = together([lambda: meeting.alone(ALONE_ROUNDS)], two, meeting.stop)
        return ran.results[0], ran.cpu_share

    def hand_over() -> tuple[list[int], float]:
        meeting = Meeting()
        ran = together([partial(meeting.hand_over, i, 3000, 10, 10) for i in (0, 1)], two, meeting.stop)
        gaps = ran.results[0] + ran.results[1]
        return gaps, ran.cpu_share if len(gaps) > 100 else 0.0

    def wake() -> tuple[tuple[float, float], float]:
        meeting = Meeting()
        ran = together([lambda: meeting.sleeper(300), lambda: meeting.waker(300)], two, meeting.stop)
        return (statistics.median(ran.results[0]), statistics.median(ran.results[1])), 1.0

    def yields(on: Sequence[int], n: int) -> Callable[[], tuple[float, float]]:
        def run() -> tuple[float, float]:
            meeting = Meeting()
            ran = together([lambda: meeting.yields(3000)] * n, on, meeting.stop)
            return max(ran.results) / (n * 3000), 1.0 if n > 1 else ran.cpu_share
        return run

    def turns() -> tuple[list[int], float]:
        meeting = Meeting()
        ran = together([lambda: meeting.gaps(200_000_000)] * 2, [two[0]] * 2, meeting.stop)
        return ran.results[0] + ran.results[1], 1.0

    found, bad = wanted_runs(alone, n, tries)
    clock, add, pair_ns, look, park, wake_none = (list(column) for column in zip(*found, strict=True))
    rows = [
        figure("clock_ns", clock, "one thread reads the clock in a loop", bad),
        figure("local_ns", add, "one thread adds atomically to one word in a loop", bad),
        figure("lock_ns", pair_ns, "one thread locks and unlocks one mutex in a loop", bad),
        figure("spin_step_ns", look, "one thread looks at a word and pauses, in a loop", bad),
        figure("park_ns", park, "a futex wait that finds another value, in a loop", bad),
        figure("wake_none_ns", wake_none, "a futex wake that finds nobody, in a loop", bad),
    ]
    over, bad = wanted_runs(lambda: with_line(hand_over), n, tries)
    base = statistics.median(clock)
    ratios = [(statistics.median(gaps) - base) / line for gaps, line in over if gaps]
    rows.append(figure("hand_over_lines", ratios or [1.0], "two threads on two CPUs take one mutex in "
                        "turns: from a clock read before unlocking to one after locking, where the lock "
                        "was held at the first try; less one clock read; in times of a line", bad))
    wakes, _ = wanted_runs(wake, n, n)
    rows += [
        figure("wake_latency_ns", [w[0] for w in wakes], "a thread that slept in a futex for 20 us: "
                "from before the call that wakes it until it runs, its CPU idle"),
        figure("wake_ns", [w[1] for w in wakes], "the call that wakes it"),
    ]
    switch, _ = wanted_runs(yields([two[0]] * 2, 2), n, n)
    still, bad = wanted_runs(yields(two, 1), n, tries)
    alone_ns = statistics.median(still)
    switches = [max(0.0, s - alone_ns) for s in switch]
    rows.append(figure("switch_ns", switches, "two threads on one CPU call "
                        "sched_yield in turns, less the call of one thread alone", bad))
    lengths = [gap for gaps_ns, _ in [turns() for _ in range(2)] for gap in gaps_ns] or [3_000_000]
    rows.append(figure("slice_ns", lengths, "two busy threads on one CPU look at the clock: how long "
                        "each is away"))
    return rows
