"""`lab replay`: every thread count ends in one state, histories stay whole, and what is wrong shows."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from coldmem.cli.main import run as cli_run
from coldmem.errors import InternalError, UsageError
from coldmem.lab import replay
from coldmem.lab.arms import ARMS, arm
from coldmem.lab.gate import Gate
from coldmem.lab.replay import Replay, ReplayPlan, facts, load_trace, sample, shared_out
from coldmem.lab.replay_work import ReplayWork
from coldmem.nbd.trace import LOAD, STORE, TRIM, Trace
from coldmem.zswap import Zswap

UNIT = 4096


def trace_of(operations: list[tuple[int, int, int]], slots: int = 4096) -> Trace:
    """(operation, slot, bytes) in the order of time."""
    op, slot, nbytes = (np.array(column) for column in zip(*operations, strict=True))
    n = len(operations)
    return Trace(
        np.arange(n, dtype=np.uint64) * 1000, op.astype(np.uint8), slot.astype(np.uint32),
        nbytes.astype(np.uint32), np.zeros(n, np.uint16), UNIT, slots * UNIT, "lz4",
    )


def random_trace(n: int, slots: int, seed: int) -> Trace:
    """Stores, loads of what is there (and of what is not), trims; sizes of every kind."""
    rng = np.random.default_rng(seed)
    held: dict[int, int] = {}
    operations = []
    for _ in range(n):
        slot, what = int(rng.integers(slots)), rng.random()
        if what < 0.5:
            held[slot] = int(rng.choice([0, 1, 7, 8, 9, 47, 48, 49, 900, 2000, 4095, 4096]))
            operations.append((STORE, slot, held[slot]))
        elif what < 0.85:
            operations.append((LOAD, slot, held.get(slot, 0)))
        else:
            held.pop(slot, None)
            operations.append((TRIM, slot, 0))
    return trace_of(operations, slots)


@pytest.fixture(scope="module")
def trace() -> Trace:
    return random_trace(20_000, 3000, 5)


def test_facts() -> None:
    found = facts(trace_of([
        (STORE, 5, 100), (STORE, 9, 50), (LOAD, 5, 100), (STORE, 5, 30), (TRIM, 5, 0), (TRIM, 5, 0),
        (STORE, 7, 0), (LOAD, 8, 0),
    ]))
    assert (found.stores, found.loads, found.trims, found.slots) == (4, 2, 2, 4)
    assert (found.live_bytes_max, found.live_units_max) == (150, 2)
    assert found.mean_bytes == 45 and found.seconds == pytest.approx(7e-6)


def test_facts_against_a_dictionary(trace: Trace) -> None:
    held: dict[int, int] = {}
    most_bytes = most_units = 0
    for op, slot, nbytes in zip(trace.op, trace.slot, trace.nbytes, strict=True):
        if op == STORE:
            held[int(slot)] = int(nbytes)
        elif op == TRIM:
            held.pop(int(slot), None)
        most_bytes, most_units = max(most_bytes, sum(held.values())), max(most_units, len(held))
    found = facts(trace)
    assert (found.live_bytes_max, found.live_units_max) == (most_bytes, most_units)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_each_slot_has_one_thread_and_keeps_its_order(trace: Trace, threads: int) -> None:
    shares = shared_out(trace, threads)
    ends = [*shares.starts[1:], len(trace)]
    owners: dict[int, int] = {}
    histories: dict[int, list[tuple[int, int]]] = {}
    for thread, (start, end) in enumerate(zip(shares.starts, ends, strict=True)):
        for i in range(start, end):
            slot = int(shares.slot[i])
            assert owners.setdefault(slot, thread) == thread
            histories.setdefault(slot, []).append((int(shares.op[i]), int(shares.nbytes[i])))
    expected: dict[int, list[tuple[int, int]]] = {}
    for op, slot, nbytes in zip(trace.op, trace.slot, trace.nbytes, strict=True):
        expected.setdefault(int(slot), []).append((int(op), int(nbytes)))
    numbered = {n: expected[slot] for n, slot in enumerate(sorted(expected))}
    assert histories == numbered
    if threads > 1:
        assert len(set(owners.values())) == threads


def test_a_sample_has_whole_histories(trace: Trace) -> None:
    part = sample(trace, 0.5)
    assert 0.2 * len(trace) < len(part) < 0.8 * len(trace)
    kept = set(part.slot.tolist())
    assert len(part) == np.isin(trace.slot, list(kept)).sum()
    assert len(sample(trace, 1)) == len(trace)
    with pytest.raises(UsageError):
        sample(trace, 0)


@pytest.mark.tsan
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_all_arms_and_threads_end_in_one_state(trace: Trace, codec: str) -> None:
    machine = Replay(trace, ReplayPlan(codec=codec, rounds=2))
    runs = [machine.run(arm(name), threads) for name in ARMS for threads in (1, 3)]
    assert len({r.state for r in runs}) == 1
    assert all(r.failed == 0 and r.stored_bytes > 0 for r in runs)
    # The second round does all of it again, and what is in the way between the two is emptied.
    assert all(r.ops > 2 * len(trace) for r in runs)
    absent = {r.absent for r in runs}
    assert len(absent) == 1 and absent.pop() > 0


def test_what_does_not_fit_goes_to_disk(trace: Trace) -> None:
    machine = Replay(trace, ReplayPlan(memory_max_bytes=1 << 20))
    free = Replay(trace, ReplayPlan())
    limited, other = machine.run(arm("handle"), 2), free.run(arm("handle"), 2)
    assert limited.written_back > 0 and other.written_back == 0
    assert limited.used_bytes <= 1 << 20 < other.used_bytes
    assert limited.state == other.state and limited.failed == 0


def test_statistics_of_locks(trace: Trace) -> None:
    counted = Replay(trace, ReplayPlan()).run(arm("pool"), 2, statistics_wanted=True)
    assert "pool" in counted.waits and counted.mops_per_s > 0


def work_on(zswap: Zswap, trace: Trace) -> ReplayWork:
    shares = shared_out(trace, 1)
    gate = Gate()
    noise = np.random.default_rng(1).bytes(8 * UNIT)
    work = ReplayWork(zswap, gate, shares.op, shares.slot, shares.nbytes, shares.starts, noise)
    gate.open()
    work.run(0)
    return work


def test_other_bytes_are_noticed() -> None:
    with Zswap(max_pool="8M") as zswap:
        work = work_on(zswap, trace_of([(STORE, 3, 900), (STORE, 4, 10), (STORE, 5, 0)]))
        assert work.verify()[0] == 3 and work.totals()["bad_reads"] == 0
        zswap.store(1, bytes(UNIT))
        with pytest.raises(InternalError, match="slot 1"):
            work.verify()
        zswap.invalidate(1)
        with pytest.raises(InternalError, match="slot 1"):
            work.verify()
    with Zswap(max_pool="8M") as zswap:
        work = work_on(zswap, trace_of([(STORE, 3, 900), (TRIM, 3, 0)]))
        zswap.store(0, bytes(UNIT))
        with pytest.raises(InternalError, match="was trimmed"):
            work.verify()


def test_work_refuses_what_makes_no_sense() -> None:
    good = shared_out(trace_of([(STORE, 3, 900)]), 1)
    noise = bytes(4 * UNIT)
    with Zswap(max_pool="8M") as zswap:
        for starts, some_noise, nbytes in (
            ([1], noise, good.nbytes), ([], noise, good.nbytes), ([0, 2], noise, good.nbytes),
            ([0], noise[:100], good.nbytes), ([0], noise, good.nbytes + UNIT),
            ([0], noise, good.nbytes[:0]),
        ):
            with pytest.raises(UsageError):
                ReplayWork(zswap, Gate(), good.op, good.slot, nbytes, starts, some_noise)
    with pytest.raises(UsageError, match="--rounds"):
        ReplayPlan(rounds=0).check()
    with pytest.raises(UsageError, match="no operations"):
        Replay(random_trace(10, 5, 1).head(0), ReplayPlan())


def test_command(trace: Trace, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.npz"
    trace.save(path)
    options = ["--threads", "1", "2", "--repeats", "1", "--arms", "pools32", "handle"]
    assert cli_run(["lab", "replay", str(path), *options, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["name"] == "lab_replay" and result["settings"]["slots"] == facts(trace).slots
    assert [(r["threads"], r["arm"]) for r in result["rows"]] == [
        (1, "pools32"), (1, "handle"), (2, "pools32"), (2, "handle"),
    ]
    assert len({r["result_hash"] for r in result["rows"]}) == 1
    assert cli_run(["lab", "replay", str(path), *options]) == 0
    assert "x 32 pools" in capsys.readouterr().out
    path.write_bytes(b"nothing")
    assert cli_run(["lab", "replay", str(path)]) == 2


def test_the_build_that_ships() -> None:
    shipped = load_trace(None)
    found = facts(shipped)
    assert found.stores > 50_000 and found.loads > 5000
    # A sample of slots with whole histories: nothing is loaded that was not stored before.
    machine = Replay(shipped, ReplayPlan())
    assert machine.run(arm("handle"), 2).absent <= found.loads * 0.01
    assert (Path(replay.__file__).parent / "data" / "build.npz").stat().st_size < 1_600_000
