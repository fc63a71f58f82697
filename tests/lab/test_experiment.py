"""The parts of the experiment: gate, histogram, worker loops, goals, disturbed runs."""

from __future__ import annotations

import threading
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from coldmem.codecs import get_codec
from coldmem.errors import InternalError, UsageError
from coldmem.lab import goals, locks, workloads
from coldmem.lab.alloc_work import AllocWork
from coldmem.lab.arms import ARMS, arm, members
from coldmem.lab.drive import Timing, drive
from coldmem.lab.engine_work import EngineWork
from coldmem.lab.gate import Gate, bucket_value_ns, percentile_ns
from coldmem.lab.zswap_work import ZswapWork
from coldmem.zsmalloc import Pool
from coldmem.zswap import Zswap

PAYLOADS = [bytes([i]) * (50 * i + 20) for i in range(1, 40)]


def test_buckets_grow_and_stay_within_seven_percent() -> None:
    values = [bucket_value_ns(b) for b in range(900)]
    assert values[:17] == list(range(17)) and values == sorted(set(values))
    for low, high in pairwise(values[16:]):
        assert (high - low) / high < 0.07


def test_percentiles() -> None:
    counts = [0] * 1024
    counts[10], counts[15], counts[200] = 90, 9, 1
    assert percentile_ns(counts, 0.5) == 10
    assert percentile_ns(counts, 0.99) == 15
    assert percentile_ns(counts, 0.999) == bucket_value_ns(200)
    assert percentile_ns([0] * 1024, 0.5) is None


def _end_ns(work: AllocWork) -> int:
    return work.totals()["end_ns"]


@pytest.mark.parametrize("name", ARMS)
def test_the_same_operations_end_in_the_same_state(name: str) -> None:
    states = set()
    for locking in ("class", name):
        pool = arm(locking).open()
        gate = Gate()
        work = AllocWork(pool, PAYLOADS, gate, 2, 200)
        jobs = [partial(work.run, i, 2000) for i in range(2)]
        timing = drive(gate, jobs, [work.compactor], partial(_end_ns, work), None)
        totals = work.totals()
        assert totals["ops"] >= 4000 and totals["bad_reads"] == totals["failed"] == 0
        assert timing.real_s > 0
        objects, stored, state = work.verify()
        assert objects > 0
        assert sum(p.stats().objects for p in members(pool)) == objects
        work.clear()
        for p in members(pool):
            p.check_valid()
            assert p.stats().objects == 0
            p.close()
        states.add((objects, stored, state))
    assert len(states) == 1


def test_verify_notices_a_changed_object() -> None:
    pool = Pool()
    gate = Gate()
    gate.open()
    work = AllocWork(pool, [b"a" * 100, b"b" * 100], gate, 1, 100)
    work.run(0, 100)
    before = work.verify()
    # One more object of the same pool is no difference; a changed one is.
    pool.store(b"c" * 100)
    assert work.verify() == before
    slot = next(s for s in range(100) if work.handle(s))
    pool.write(work.handle(slot), b"x" * 100)
    with pytest.raises(InternalError, match=f"slot {slot} does not hold what was written"):
        work.verify()


def test_a_phase_notices_a_changed_object_and_one_that_is_gone() -> None:
    pool = Pool()
    work = AllocWork(pool, [b"a" * 100, b"b" * 100], Gate(), 1, 100)
    gate = Gate()
    gate.open()
    work.phase("put", 0, gate)
    assert work.totals() == {**work.totals(), "ops": 100, "bad_reads": 0, "failed": 0}
    pool.write(work.handle(7), b"x" * 100)
    pool.free(work.handle(8))
    work.phase("read", 0, gate)
    assert work.totals()["bad_reads"] == 2
    work.phase("free", 0, gate)
    assert work.totals()["bad_reads"] == 3 and pool.stats().objects == 0
    with pytest.raises(UsageError, match="thread 1 of 1"):
        work.phase("put", 1, gate)
    with pytest.raises(UsageError, match="no phase is called"):
        work.phase("nix", 0, gate)


def test_zswap_work_verifies_and_notices() -> None:
    stuff = workloads.material(64)
    with Zswap(max_pool="1M", swap="64M") as zswap:
        gate = Gate()
        gate.open()
        work = ZswapWork(zswap, stuff.units, gate, 1, 200)
        work.run(0, 400)
        assert work.totals()["bad_reads"] == 0
        units, _ = work.verify()
        assert units == len(zswap) > 0
        slot = next(s for s in range(200) if s in zswap)
        zswap.store(slot, bytes(4096))
        with pytest.raises(InternalError, match=f"slot {slot} does not hold"):
            work.verify()


def test_engine_work_compares_both_sides() -> None:
    stuff = workloads.material(64)
    data = b"".join(stuff.units)
    with Zswap(max_pool="8M", shrinker_thread=False) as zswap:
        work = EngineWork(zswap, get_codec("lz4"), data)
        assert work.units() == 64
        work.store_ns(0, 64)
        for _ in range(5):  # the log wraps
            assert work.bare_compress_ns(0, 64) > 0
        work.verify()
        expected = sum(min(len(p), 4096) for p in stuff.compressed)
        assert work.compressed_bytes() == pytest.approx(expected, rel=0.1)
        zswap.store(5, bytes(4096))
        with pytest.raises(InternalError, match="came back changed"):
            work.verify()


def test_misuse_of_the_loops() -> None:
    gate = Gate()
    with Pool() as pool:
        with pytest.raises(UsageError, match="16 bytes or more"):
            AllocWork(pool, [b"short"], gate, 1, 100)
        with pytest.raises(UsageError, match="too few"):
            AllocWork(pool, PAYLOADS, gate, 8, 8)
        with pytest.raises(UsageError, match="want a Pool"):
            AllocWork([pool], PAYLOADS, gate, 1, 100)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="thread 1 of 1"):
            AllocWork(pool, PAYLOADS, gate, 1, 100).run(1)
    with Zswap(max_pool="1M") as zswap:
        with pytest.raises(UsageError, match="must have 4096 bytes"):
            ZswapWork(zswap, [b"x" * 100], gate, 1, 100)
        with pytest.raises(UsageError, match="whole units"):
            EngineWork(zswap, get_codec("lz4"), b"x" * 100)
    with pytest.raises(UsageError, match="no arm is called"):
        arm("nix")


def test_an_error_in_a_worker_ends_the_run() -> None:
    gate = Gate()

    def fail() -> None:
        raise UsageError("broken on purpose")

    with pytest.raises(UsageError, match="broken on purpose"):
        drive(gate, [fail], [], lambda: 0, 0.01)
    assert threading.active_count() < 10


def test_a_disturbed_run_is_repeated_and_the_best_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(locks, "QUIET_PAUSE_S", 0.0)
    foreign = iter([9.0, 5.0, 7.0, 0.0])

    def measure() -> Any:
        timing = Timing(1.0, 1.0, 0.0, next(foreign))
        return workloads.Measurement(timing, 1, 0, 1, 1, 0, 0, 0, "")

    assert locks._quiet(measure, 3).timing.foreign_cpu_s == 5.0
    assert locks._quiet(measure, 3).timing.foreign_cpu_s == 0.0


def row(name: str, threads: int, mops: float, workload: str = "alloc", **more: object) -> Any:
    return {"arm": name, "workload": workload, "codec": "none", "threads": threads,
            "mops_per_s": mops, "mops_per_s_runs": [mops], **more}


def test_goals() -> None:
    rows = [row("class", 32, 9.0), row("pool", 32, 3.0), row("class", 1, 0.97), row("pool", 1, 1.0)]
    verdicts = {v.goal.text: v for v in goals.judge(rows)}
    met = verdicts["alloc, 32 threads: class / pool"]
    assert met.met is True and met.worst == pytest.approx(3.0)
    missed = verdicts["alloc, 1 thread: class / pool"]
    assert missed.met is False and missed.by_threads == {1: pytest.approx(0.97)}
    open_one = verdicts["alloc, 2 to 32 threads: handle / 32 pools"]
    assert open_one.met is None and open_one.worst is None


def test_a_goal_over_several_threads_is_judged_by_the_worst() -> None:
    rows = [row("pools32", t, 1.0) for t in (2, 8, 32)]
    rows += [row("class", 2, 1.5), row("class", 8, 0.9), row("class", 32, 1.2)]
    verdict = next(v for v in goals.judge(rows) if v.goal.text.endswith("class / 32 pools"))
    assert verdict.met is False and verdict.worst == pytest.approx(0.9)


def test_arms_are_compared_within_repeats() -> None:
    """The machine became half as fast at each repeat: the ratio is the same all the time."""
    up = row("class", 1, 4.0, mops_per_s_runs=[8.0, 4.0, 2.0])
    down = row("pool", 1, 2.0, mops_per_s_runs=[4.0, 2.0, 1.0])
    assert goals.paired_ratio(up, down) == pytest.approx(2.0)


def test_latency_goal_is_an_upper_bound() -> None:
    rows = [row("class", t, 1.0, "compact", load_p999_ns=1000) for t in (2, 8, 32)]
    rows += [row("handle", t, 1.0, "compact", load_p999_ns=t) for t in (2, 8, 32)]
    verdict = next(v for v in goals.judge(rows) if "p99.9" in v.goal.text)
    assert verdict.met is True and verdict.worst == pytest.approx(0.032)
