"""Single flight: one load, whoever asks; what waits for ever is refused; nobody is poisoned."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from coldmem.cache.flight import Flight
from coldmem.errors import UsageError

PATIENCE = 30  # seconds; only a broken flight takes so long


class Gate:
    """A loader that tells that it runs, and goes on when it is let go."""

    def __init__(self, value=None, error=None):
        self.value, self.error = value, error
        self.calls = 0
        self.running = threading.Event()
        self.go = threading.Event()

    def __call__(self):
        self.calls += 1
        self.running.set()
        assert self.go.wait(PATIENCE)
        if self.error:
            raise self.error
        return self.value

    async def later(self):
        self.calls += 1
        self.running.set()
        while not self.go.is_set():
            await asyncio.sleep(0.001)
        if self.error:
            raise self.error
        return self.value


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


async def wait_for_async(condition):
    """The same, while the event loop runs on."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.001)


def never():
    raise AssertionError("loaded by somebody who should have waited")


def waiters(flight):
    """How many wait for a load that goes on; who has yet to wake up does not count."""
    with flight._lock:
        return sum(call.flying for call in flight._waiting.values())


class Threads:
    """Jobs in threads of their own; their results or errors."""

    def __init__(self):
        self.threads, self.results = [], {}

    def start(self, name, job):
        def body():
            try:
                self.results[name] = job()
            except BaseException as error:
                self.results[name] = error

        self.threads.append(threading.Thread(target=body, daemon=True))
        self.threads[-1].start()

    def end(self):
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        return self.results


@pytest.fixture
def threads():
    return Threads()


@pytest.fixture
def flight():
    made = Flight()
    yield made
    assert len(made) == 0
    assert made._calls == {}
    assert made._waiting == {}


# -- threads ---------------------------------------------------------------------------------------
def test_one_caller(flight):
    assert flight.do("k", lambda: 5) == 5
    assert flight.do("k", lambda: None) is None  # nothing is remembered
    with pytest.raises(ZeroDivisionError):
        flight.do("k", lambda: 1 / 0)
    assert flight.do("k", lambda: 6) == 6


def test_many_callers_of_one_key_load_once(flight, threads):
    value = object()
    gate = Gate(value)
    threads.start("leader", lambda: flight.do("k", gate))
    assert gate.running.wait(PATIENCE)
    assert len(flight) == 1
    for i in range(8):
        threads.start(i, lambda: flight.do("k", never))
    wait_for(lambda: waiters(flight) == 8)
    gate.go.set()
    assert all(found is value for found in threads.end().values())
    assert gate.calls == 1


def test_keys_that_are_equal_are_one(flight, threads):
    gate = Gate(1)
    threads.start("leader", lambda: flight.do(1, gate))
    assert gate.running.wait(PATIENCE)
    threads.start("float", lambda: flight.do(1.0, never))
    threads.start("bool", lambda: flight.do(True, never))
    wait_for(lambda: waiters(flight) == 2)
    assert flight.do("1", lambda: "another") == "another"
    gate.go.set()
    assert threads.end() == {"leader": 1, "float": 1, "bool": 1}


@pytest.mark.parametrize("error", [KeyError("gone"), StopIteration(5), UsageError("no"), MemoryError()])
def test_all_hear_of_an_error(flight, threads, error):
    gate = Gate(error=error)
    threads.start("leader", lambda: flight.do("k", gate))
    assert gate.running.wait(PATIENCE)
    for i in range(3):
        threads.start(i, lambda: flight.do("k", never))
    wait_for(lambda: waiters(flight) == 3)
    gate.go.set()
    assert all(found is error for found in threads.end().values())
    assert flight.do("k", lambda: 1) == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_load_is_taken_over(flight, threads, error):
    """What stops one thread is no news about the key."""
    gate = Gate(error=error())
    second = Gate("value")
    threads.start("leader", lambda: flight.do("k", gate))
    assert gate.running.wait(PATIENCE)
    for i in range(4):
        threads.start(i, lambda: flight.do("k", second))
    wait_for(lambda: waiters(flight) == 4)
    gate.go.set()
    wait_for(lambda: second.running.is_set() and waiters(flight) == 3)
    second.go.set()
    results = threads.end()
    assert isinstance(results.pop("leader"), error)
    assert list(results.values()) == ["value"] * 4
    assert second.calls == 1


@pytest.mark.tsan
def test_loads_of_a_key_never_overlap(flight, run_threads, stress_seconds):
    stop = time.monotonic() + stress_seconds / 2
    inside = dict.fromkeys(range(3), 0)
    done = []

    def load(key):
        inside[key] += 1
        assert inside[key] == 1
        time.sleep(0)
        inside[key] -= 1
        if key == 2:
            raise KeyError(key)
        return key

    def worker():
        n = 0
        while not n or time.monotonic() < stop:
            for key in range(3):
                with contextlib.suppress(KeyError):
                    assert flight.do(key, lambda: load(key)) == key
                n += 1
        done.append(n)

    run_threads(*[worker] * 8)
    assert min(done) > 0


def test_a_waiting_main_thread_can_be_interrupted():
    code = """
import os, threading, time
from coldmem.cache.flight import Flight
flight, go, running = Flight(), threading.Event(), threading.Event()
def load():
    running.set(); go.wait(60); return "loaded"
other = threading.Thread(target=lambda: print(flight.do("k", load)))
other.start(); running.wait(60)
def interrupt():
    while not flight._waiting: time.sleep(0.001)
    time.sleep(0.05); os.kill(os.getpid(), 2)
threading.Thread(target=interrupt).start()
try:
    flight.do("k", load)
except KeyboardInterrupt:
    print("interrupted", len(flight._waiting), len(flight))
go.set(); other.join(); print(len(flight))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
                          env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.stdout.splitlines() == ["interrupted 0 1", "loaded", "0"], done.stderr


# -- what would wait for ever ----------------------------------------------------------------------
def test_a_loader_that_wants_its_own_key(flight):
    with pytest.raises(UsageError, match="asks for that key itself"):
        flight.do("k", lambda: flight.do("k", never))
    assert flight.do("k", lambda: flight.do("other", lambda: 5)) == 5


def test_loaders_that_wait_for_each_other(flight, threads):
    both = threading.Barrier(3)

    def load(other):
        both.wait(PATIENCE)
        return flight.do(other, never)

    for own, other in ("ab", "bc", "ca"):
        threads.start(own, lambda: flight.do(own, lambda: load(other)))
    results = threads.end()
    assert all(isinstance(found, UsageError) for found in results.values())  # all hear of the one
    assert "wait for each other" in str(results["a"])


def test_a_chain_of_loaders_is_no_circle(flight, threads):
    gate = Gate("end")
    threads.start("c", lambda: flight.do("c", gate))
    assert gate.running.wait(PATIENCE)
    threads.start("b", lambda: flight.do("b", lambda: flight.do("c", never)))
    wait_for(lambda: waiters(flight) == 1)
    threads.start("a", lambda: flight.do("a", lambda: flight.do("b", never)))
    threads.start("x", lambda: flight.do("x", lambda: flight.do("b", never)))
    wait_for(lambda: waiters(flight) == 3)
    gate.go.set()
    assert set(threads.end().values()) == {"end"}


def test_a_task_that_wants_its_own_key(flight):
    async def again():
        return await flight.do_async("k", again)

    async def blocking():
        return flight.do("k", never)

    for load in (again, blocking):
        with pytest.raises(UsageError, match="asks for that key itself"):
            asyncio.run(flight.do_async("k", load))


def test_a_call_that_would_block_the_loop_it_waits_for(flight):
    async def main():
        gate = Gate(5)
        leader = asyncio.create_task(flight.do_async("k", gate.later))
        await asyncio.sleep(0)
        with pytest.raises(UsageError, match="await"):
            flight.do("k", never)
        gate.go.set()
        assert await leader == 5

    asyncio.run(main())


# -- coroutines ------------------------------------------------------------------------------------
def test_tasks_of_one_loop(flight):
    async def main():
        gate = Gate("value")
        tasks = [asyncio.create_task(flight.do_async("k", gate.later)) for _ in range(9)]
        await wait_for_async(lambda: waiters(flight) == 8)
        gate.go.set()
        assert await asyncio.gather(*tasks) == ["value"] * 9
        assert gate.calls == 1
        bad = Gate(error=KeyError("gone"))
        tasks = [asyncio.create_task(flight.do_async("k", bad.later)) for _ in range(3)]
        await asyncio.sleep(0)
        bad.go.set()
        assert await asyncio.gather(*tasks, return_exceptions=True) == [bad.error] * 3
        assert bad.calls == 1

    asyncio.run(main())


def test_tasks_that_await_each_other_s_keys(flight):
    async def main():
        async def load(other):
            await asyncio.sleep(0.01)
            return await flight.do_async(other, load)

        found = await asyncio.gather(
            flight.do_async("a", lambda: load("b")), flight.do_async("b", lambda: load("a")),
            return_exceptions=True)
        assert all(isinstance(one, UsageError) for one in found)

    asyncio.run(main())


def test_several_loops_and_threads(flight, threads):
    gate = Gate("value")
    threads.start("leader", lambda: asyncio.run(flight.do_async("k", gate.later)))
    assert gate.running.wait(PATIENCE)
    for i in range(3):
        threads.start(("loop", i), lambda: asyncio.run(flight.do_async("k", gate.later)))
        threads.start(("thread", i), lambda: flight.do("k", never))
    wait_for(lambda: waiters(flight) == 6)
    gate.go.set()
    assert list(threads.end().values()) == ["value"] * 7
    assert gate.calls == 1


def test_a_loop_that_waits_for_a_thread_goes_on(flight, threads):
    gate = Gate("value")
    threads.start("leader", lambda: flight.do("k", gate))
    assert gate.running.wait(PATIENCE)

    async def main():
        task = asyncio.create_task(flight.do_async("k", gate.later))
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert not task.done()
        gate.go.set()
        assert await task == "value"

    asyncio.run(main())
    assert threads.end() == {"leader": "value"}


@pytest.mark.parametrize("others", ["tasks", "threads"])
def test_a_cancelled_leader_poisons_nobody(flight, threads, others):
    async def main():
        gate, second = Gate("never"), Gate("second")
        leader = asyncio.create_task(flight.do_async("k", gate.later))
        await asyncio.sleep(0)
        tasks = []
        for i in range(3):
            if others == "tasks":
                tasks.append(asyncio.create_task(flight.do_async("k", second.later)))
            else:
                threads.start(i, lambda: flight.do("k", second))
        await wait_for_async(lambda: waiters(flight) == 3)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        await wait_for_async(lambda: second.running.is_set() and waiters(flight) == 2)
        second.go.set()
        assert await asyncio.gather(*tasks) == ["second"] * len(tasks)
        found = await asyncio.to_thread(threads.end)
        assert list(found.values()) == ["second"] * (3 - len(tasks))
        assert second.calls == 1

    asyncio.run(main())


def test_a_cancelled_follower_poisons_nobody(flight):
    async def main():
        gate = Gate("value")
        tasks = [asyncio.create_task(flight.do_async("k", gate.later)) for _ in range(4)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[2]
        assert waiters(flight) == 2
        gate.go.set()
        assert await asyncio.gather(tasks[0], tasks[1], tasks[3]) == ["value"] * 3
        assert gate.calls == 1

    asyncio.run(main())


def test_a_loop_that_ends_during_its_load_poisons_nobody(flight, threads):
    """asyncio.run cancels what is left; the thread that waits loads for itself."""
    gate = Gate("never")

    async def main():
        task = asyncio.create_task(flight.do_async("k", gate.later))
        await asyncio.sleep(0)
        threads.start("thread", lambda: flight.do("k", lambda: "own"))
        await wait_for_async(lambda: waiters(flight) == 1)
        assert not task.done()

    asyncio.run(main())
    assert threads.end() == {"thread": "own"}


def test_a_follower_s_loop_that_is_gone_does_not_harm_the_leader(flight, threads):
    gate = Gate("value")
    threads.start("leader", lambda: flight.do("k", gate))
    assert gate.running.wait(PATIENCE)

    async def main():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(flight.do_async("k", gate.later), 0.01)

    asyncio.run(main())
    gate.go.set()
    assert threads.end() == {"leader": "value"}


