"""The simulation beside answers that can be written down: queues, preemption, readers and writers."""

from __future__ import annotations

from typing import Any

import pytest

from coldmem.errors import UsageError
from coldmem.lab.scale_simulation import Simulation

LOCKS = {"spin_ns": 800.0, "spin_step_ns": 20.0, "grab_ns": 40.0, "park_ns": 300.0, "wake_ns": 1500.0,
         "wake_none_ns": 250.0, "wake_latency_ns": 5000.0, "switch_ns": 1000.0, "slice_ns": 3e6}


def pool(work: float, hold: float, line: float = 0.0, remote: float = 0.0) -> list[Any]:
    return [("pool", work, 1.0, hold, line, remote)]


def speed(found: dict[str, Any]) -> float:
    """Operations per nanosecond."""
    return float(found["ops"]) / float(found["elapsed_ns"])


def repairman(n: int, work: float, hold: float) -> float:
    """Exact throughput of n customers, exponential work and service: mean value analysis."""
    queue = rate = 0.0
    for customers in range(1, n + 1):
        wait = hold * (1 + queue)
        rate = customers / (work + wait)
        queue = rate * wait
    return rate


@pytest.mark.parametrize("fifo", [True, False])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 40])
def test_one_lock_without_chance(n: int, fifo: bool) -> None:
    """min(N / (work + hold), 1 / hold): of a mutex whose hand-over is free too."""
    costs = {} if fifo else {"spin_ns": 1e9}
    found = Simulation([pool(300, 100)], [1], n, n, fifo=fifo, costs=costs).run(20_000)
    assert speed(found) == pytest.approx(min(n / 400, 1 / 100), rel=2e-3)


@pytest.mark.parametrize("n", [1, 3, 10, 32])
def test_machine_repairman(n: int) -> None:
    found = Simulation([pool(1000, 100)], [1], n, n, fifo=True, shapes=(1, 1)).run(400_000)
    assert speed(found) == pytest.approx(repairman(n, 1000, 100), rel=0.01)
    lock = found["locks"]["pool"]
    assert lock["busy_ns"] / found["elapsed_ns"] == pytest.approx(speed(found) * 100, rel=0.01)


def test_m_d_1_waiting() -> None:
    """Many rare customers and fixed holds: waiting is load * hold / (2 (1 - load))."""
    n, hold, work = 400, 100.0, 400 * 100 / 0.6
    found = Simulation([pool(work, hold)], [1], n, n, fifo=True, shapes=(1, 0)).run(600_000)
    load = found["locks"]["pool"]["busy_ns"] / found["elapsed_ns"]
    waited = found["locks"]["pool"]["waited_ns"] / found["ops"]
    assert load == pytest.approx(0.6, rel=0.01)
    assert waited == pytest.approx(load * hold / (2 * (1 - load)), rel=0.04)


def test_classes_share_the_load_as_they_are_popular() -> None:
    """Eight cores on one class of a half and five of a tenth: the popular lock is the bound."""
    found = Simulation([[("class", 10.0, 1.0, 100.0, 0.0, 0.0)]], [1], 60, 60, fifo=True,
                       classes=[5, 1, 1, 1, 1, 1], shapes=(1, 1)).run(200_000)
    lock = found["locks"]["class"]
    assert lock["busiest_ns"] / lock["busy_ns"] == pytest.approx(0.5, rel=0.02)
    assert speed(found) == pytest.approx(1 / 50, rel=0.02)


def test_remote_costs() -> None:
    """Two cores in one class: whoever comes second in a row pays less than who comes after the other."""
    alone = Simulation([pool(100, 50, 30, 70)], [1], 1, 1).run(2000)
    assert speed(alone) == pytest.approx(1 / 150)
    both = Simulation([pool(5000, 50, 30, 70)], [1], 2, 2, fifo=True).run(4000)
    # Strictly in turn: always after the other one.
    assert speed(both) == pytest.approx(2 / 5150, rel=0.01)
    work = Simulation([[("work", 100.0, 1.0, 0.0, 0.0, 60.0)]], [1], 2, 2).run(4000)
    assert speed(work) == pytest.approx(2 / 160, rel=0.01)


def test_the_shared_word_is_a_bound() -> None:
    steps = [("line", 10.0, 1.0, 1.0, 50.0, 0.0)]
    assert speed(Simulation([steps], [1], 1, 1).run(1000)) == pytest.approx(1 / 11, rel=0.01)
    found = Simulation([steps], [1], 16, 16).run(20_000)
    assert speed(found) == pytest.approx(1 / 50, rel=0.01)
    assert found["locks"]["line"]["busy_ns"] == pytest.approx(found["elapsed_ns"], rel=0.01)


@pytest.mark.parametrize(("threads", "cores"), [(1, 1), (2, 2), (5, 2), (16, 16), (40, 3)])
def test_nothing_is_lost_and_all_time_is_somewhere(threads: int, cores: int) -> None:
    programs = [pool(200, 80, 30, 40), [("class", 100.0, 0.5, 60.0, 0.0, 20.0), *pool(50, 20)],
                [("read", 20.0, 1.0, 15.0, 0.0, 0.0), ("arena", 5.0, 0.3, 25.0, 0.0, 0.0)]]
    # Turns short enough for all to have many: with those of LOCKS the run ends before some begin.
    simulation = Simulation(programs, [2, 1, 1], threads, cores, classes=[3, 1], pools=2,
                            costs=LOCKS | {"slice_ns": 2e4}, shapes=(4, 1), seed=3,
                            helper=[("sleep", 0.0, 1.0, 50_000.0, 0.0, 0.0),
                                    ("write", 10.0, 1.0, 500.0, 0.0, 0.0)])
    found = simulation.run(30_000)
    assert found["started"] - found["done"] == threads  # one in flight each
    assert sum(found["done_by_thread"][:threads]) == found["done"] >= 30_000
    total = sum(found["spent_ns"].values()) + sum(found["helper_ns"].values())
    assert total == pytest.approx((threads + 1) * found["elapsed_ns"], rel=1e-9)
    running = total - sum(found[who][mode] for who in ("spent_ns", "helper_ns")
                          for mode in ("ready", "sleep"))
    assert running <= cores * found["elapsed_ns"] * (1 + 1e-9)
    assert found["locks"]["rw"]["writes"] > 0
    # Expected acquisitions: every first operation one, every second a half and one.
    rate = found["locks"]["pool"]["acquisitions"] / found["ops"]
    assert rate == pytest.approx(0.75, rel=0.03)
    assert found["locks"]["class"]["acquisitions"] / found["ops"] == pytest.approx(0.125, rel=0.15)
    assert found["locks"]["arena"]["acquisitions"] / found["ops"] == pytest.approx(0.075, rel=0.1)


def test_who_has_had_no_core_has_started_nothing() -> None:
    found = Simulation([pool(200, 80)], [1], 9, 2, costs=LOCKS | {"slice_ns": 1e12}).run(3000)
    assert found["done_by_thread"][2:] == [0] * 7
    assert found["started"] - found["done"] == 2 and sum(found["done_by_thread"]) == found["done"]


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> dict[str, Any]:
        return Simulation([pool(300, 90, 20)], [1], 12, 4, costs=LOCKS, shapes=(1, 1),
                          seed=seed).run(5000)

    assert run(5) == run(5)
    assert run(5)["ends_ns"] != run(6)["ends_ns"]


def test_who_shares_a_core_takes_turns() -> None:
    """Without locks, threads that outnumber cores lose what changing costs, and each gets its share."""
    costs = {"slice_ns": 1e5, "switch_ns": 1e4}
    found = Simulation([[("work", 1000.0, 1.0, 0.0, 0.0, 0.0)]], [1], 6, 2, costs=costs).run(60_000)
    assert speed(found) == pytest.approx(2 / 1000 * 0.9, rel=0.01)
    done = found["done_by_thread"]
    assert max(done) < 1.05 * min(done)


def test_a_holder_that_loses_its_core_stops_the_others() -> None:
    """Two threads, one core, a lock held for half of the time: in half of the turns the other finds it
    held, spins, sleeps, and gives the core back; it never waits for a whole turn."""
    found = Simulation([pool(1000, 1000)], [1], 2, 1, costs=LOCKS | {"slice_ns": 1e5},
                       shapes=(1, 1)).run(40_000)
    lock = found["locks"]["pool"]
    assert lock["contended"] > 0 and found["spent_ns"]["sleep"] > 0
    assert speed(found) > 0.9 / 2000
    # With a spin as long as a turn the core is burnt while the holder waits for it.
    burnt = Simulation([pool(1000, 1000)], [1], 2, 1, costs=LOCKS | {"slice_ns": 1e5, "spin_ns": 1e9},
                       shapes=(1, 1)).run(40_000)
    assert speed(burnt) == pytest.approx(speed(found) * 2 / 3, rel=0.1)
    assert burnt["spent_ns"]["sleep"] == 0


def test_readers_do_not_wait_for_readers_and_wait_for_a_writer() -> None:
    read = [("read", 100.0, 1.0, 100.0, 0.0, 0.0)]
    found = Simulation([read], [1], 20, 20).run(20_000)
    assert speed(found) == pytest.approx(20 / 200, rel=0.01)
    # A writer that is in for 800 of about every 1000: readers run in the rest.
    writer = [("sleep", 0.0, 1.0, 200.0, 0.0, 0.0), ("write", 0.0, 1.0, 800.0, 0.0, 0.0)]
    held = Simulation([read], [1], 10, 11, helper=writer).run(20_000)
    cycle = 1000 + 100  # it waits for the readers who are in, up to one hold
    share = held["helper_ns"]["hold"] / held["elapsed_ns"]
    assert 800 / cycle <= share <= 0.8
    assert speed(held) < speed(found) * 0.5 * 0.45
    # Writers exclude each other, too.
    both = Simulation([[("write", 0.0, 1.0, 100.0, 0.0, 0.0)]], [1], 4, 4).run(4000)
    assert speed(both) == pytest.approx(1 / 100, rel=0.01)


def test_unlocking_after_a_vain_try_costs_more() -> None:
    base = {"spin_ns": 1e9}
    plain = Simulation([pool(0, 100)], [1], 2, 2, costs=base).run(4000)
    stolen = Simulation([pool(0, 100)], [1], 2, 2, costs=base | {"steal_ns": 50}).run(4000)
    assert speed(plain) == pytest.approx(1 / 100, rel=0.01)
    assert speed(stolen) == pytest.approx(1 / 150, rel=0.01)


def test_against_simpy() -> None:
    """An independent simulation of the same queue, by a library."""
    simpy = pytest.importorskip("simpy", reason="simpy is not installed: the 'test' extra has it")
    import random

    chance, n, work, hold = random.Random(4), 6, 500.0, 100.0
    world = simpy.Environment()
    lock = simpy.Resource(world)
    done = []

    def task() -> Any:
        while True:
            yield world.timeout(chance.expovariate(1 / work))
            with lock.request() as turn:
                yield turn
                yield world.timeout(hold)
            done.append(world.now)

    for _ in range(n):
        world.process(task())
    world.run(until=2_000_000)
    found = Simulation([pool(work, hold)], [1], n, n, fifo=True, shapes=(1, 0)).run(100_000)
    assert speed(found) == pytest.approx(len(done) / world.now, rel=0.02)


@pytest.mark.parametrize("wrong", [
    {"programs": [[]]}, {"programs": [[("pool", 1.0)]]},
    {"programs": [[("no", 1.0, 1.0, 1.0, 0.0, 0.0)]]},
    {"programs": [pool(0, 0)]}, {"programs": [pool(-1, 5)]}, {"mix": [1, 1]}, {"mix": [0]},
    {"threads": 0}, {"cores": 0}, {"pools": 0}, {"classes": []}, {"classes": [0, 0]},
    {"costs": {"no_ns": 1.0}}, {"costs": {"spin_ns": -1.0}}, {"costs": {"spin_ns": float("nan")}},
    {"threads": 3, "fifo": True}, {"threads": 3},
])
def test_misuse(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {"programs": [pool(1, 1)], "mix": [1], "threads": 1, "cores": 1}
    with pytest.raises(UsageError):
        Simulation(**right | wrong)
    with pytest.raises(UsageError, match="--ops"):
        Simulation(**right).run(3)
