"""Fault plans, and what the swap file makes of each fault."""

import errno
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldmem.errors import SwapFileError, UsageError
from coldmem.testing.faults import Fault, FaultPlan
from coldmem.testing.swap_stress import hammer
from coldmem.zswap.checksum import checksum_of
from coldmem.zswap.swapfile import SwapFile


@pytest.fixture
def file():
    with SwapFile("8M") as swap_file:
        yield swap_file
        swap_file.check_valid()


def entry(file, n=3000, seed=1):
    data = random.Random(seed).randbytes(n)
    offset = file.alloc(n)
    file.write(offset, data)
    return offset, data


# -- survived -------------------------------------------------------------------------------------
@pytest.mark.parametrize("operation", ["write", "read"])
@pytest.mark.parametrize(("kind", "argument"), [
    ("short", 1), ("short", 2999), ("short", None), ("interrupt", 1), ("interrupt", 7),
    ("delay", 5),
])
def test_short_interrupted_and_late_transfers_are_survived(file, operation, kind, argument):
    plan = FaultPlan([Fault(operation, kind, argument=argument)])
    with plan.installed(file) as struck:
        for seed in range(5):
            offset, data = entry(file, seed=seed)
            assert file.read(offset, 3000) == data
        assert struck.hits() == [5]
    stats = file.stats()
    assert stats["write_errors"] == stats["read_errors"] == 0
    assert stats["written_bytes"] == stats["read_bytes"] == 15000


def test_a_slow_write_keeps_nobody_else_waiting(file):
    offset, data = entry(file)
    other = file.alloc(100)
    plan = FaultPlan([Fault("write", "delay", at=1, argument=3000)])
    with plan.installed(file) as struck:
        slow = threading.Thread(target=hammer, args=(file, 1, 1, 1), daemon=True)
        slow.start()
        while struck.hits() == [0]:
            pass
        file.write(other, b"o" * 100)
        assert file.read(offset, 3000) == data
        file.free(file.alloc(4096), 4096)
        file.check_valid()
        assert slow.is_alive()  # and with it all of the above came first


# -- reported -------------------------------------------------------------------------------------
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_write_that_fails_is_reported_and_counted(file, code):
    offset = file.alloc(3000)
    with FaultPlan([Fault("write", "error", at=2, argument=code)]).installed(file) as struck:
        file.write(offset, b"1" * 3000)
        with pytest.raises(SwapFileError) as caught:
            file.write(offset, b"2" * 3000)
        assert caught.value.errno == code
        assert struck.hits() == [1]
        assert file.read(offset, 3000) == b"1" * 3000
        file.write(offset, b"3" * 3000)
    assert file.read(offset, 3000) == b"3" * 3000
    stats = file.stats()
    assert (stats["writes"], stats["write_errors"]) == (3, 1)
    assert stats["written_bytes"] == 6000


def test_a_read_that_fails_is_reported_and_counted(file):
    offset, data = entry(file)
    with FaultPlan([Fault("read", "error", at=1)]).installed(file):
        with pytest.raises(SwapFileError) as caught:
            file.read(offset, 3000)
        assert caught.value.errno == errno.EIO
        assert file.read(offset, 3000) == data
    stats = file.stats()
    assert (stats["reads"], stats["read_errors"]) == (2, 1)


def test_every_write_of_a_range_fails(file):
    offset = file.alloc(100)
    outcome = []
    with FaultPlan([Fault("write", "error", at=(3, 5))]).installed(file) as struck:
        for _ in range(8):
            try:
                file.write(offset, b"r" * 100)
                outcome.append(True)
            except SwapFileError:
                outcome.append(False)
        assert struck.hits() == [3]
    assert outcome == [True, True, False, False, False, True, True, True]


def test_a_file_system_that_cannot_punch_is_asked_once(file):
    plan = FaultPlan([Fault("punch", "error", argument=errno.EOPNOTSUPP)])
    with plan.installed(file) as struck:
        for _ in range(3):
            offsets = [file.alloc(4096) for _ in range(512)]
            for offset in offsets:
                file.write(offset, b"n" * 4096)
            for offset in offsets:
                file.free(offset, 4096)
            file.check_valid()
        assert file.trim() == 0
        assert struck.hits() == [1]
    stats = file.stats()
    assert (stats["punch_errors"], stats["punched_bytes"]) == (1, 0)
    assert stats["size_bytes"] <= 4 << 20  # its space is reused all the same


# -- found by the checksum ------------------------------------------------------------------------
@pytest.mark.parametrize("bit", [0, 7, 12345, 3000 * 8 - 1, None])
def test_flip_changes_one_bit(file, bit):
    offset, data = entry(file)
    with FaultPlan([Fault("read", "flip", at=1, argument=bit)], seed=8).installed(file):
        wrong = int.from_bytes(file.read(offset, 3000), "little") ^ int.from_bytes(data, "little")
        assert wrong.bit_count() == 1
        assert bit is None or wrong == 1 << bit
        assert file.read(offset, 3000) == data


@pytest.mark.parametrize("at", [0, 511, 512, 2999, None])
def test_torn_read_spoils_the_rest_of_one_sector(file, at):
    offset, data = entry(file)
    with FaultPlan([Fault("read", "torn", at=1, argument=at)], seed=5).installed(file):
        got = file.read(offset, 3000)
    wrong = [i for i in range(3000) if got[i] != data[i]]
    assert at is None or wrong[0] == at
    assert wrong == list(range(wrong[0], wrong[-1] + 1))
    assert (offset + wrong[0]) // 512 == (offset + wrong[-1]) // 512
    assert wrong[-1] == 2999 or (offset + wrong[-1] + 1) % 512 == 0


def test_read_of_another_offset(file):
    (a, first), (b, second) = entry(file, 4096, 1), entry(file, 4096, 2)
    plan = FaultPlan([Fault("read", "elsewhere", at=1, argument=b - a),
                      Fault("read", "elsewhere", at=2, argument=1 << 30)])
    with plan.installed(file) as struck:
        assert file.read(a, 4096) == second
        assert file.read(a, 4096) not in (first, second)  # the file has nothing there
        assert struck.hits() == [1, 1]
        assert file.read(a, 4096) == first


def test_lost_write_leaves_what_was_there(file):
    offset, data = entry(file)
    with FaultPlan([Fault("write", "lost", at=1)]).installed(file):
        file.write(offset, b"l" * 3000)
    assert file.read(offset, 3000) == data


def test_torn_write_leaves_the_rest_of_what_was_there(file):
    offset, data = entry(file)
    with FaultPlan([Fault("write", "torn", at=1, argument=700)]).installed(file):
        file.write(offset, b"t" * 3000)
    assert file.read(offset, 3000) == b"t" * 700 + data[700:]


# -- plans ----------------------------------------------------------------------------------------
def outcomes(file, plan, count=300):
    offset, data = entry(file)
    seen = []
    with plan.installed(file) as struck:
        for _ in range(count):
            try:
                seen.append(checksum_of(file.read(offset, 3000)))
            except SwapFileError as error:
                seen.append(error.errno)
        return seen, struck.hits(), checksum_of(data)


def test_chance_follows_from_the_seed(file):
    faults = [Fault("read", "error", probability=0.3), Fault("read", "flip", probability=0.2)]
    first, hits, right = outcomes(file, FaultPlan(faults, seed=11))
    assert outcomes(file, FaultPlan(faults, seed=11))[:2] == (first, hits)
    assert outcomes(file, FaultPlan(faults, seed=12))[0] != first
    assert first.count(errno.EIO) == hits[0] and 60 < hits[0] < 120
    assert 30 < hits[1] < 90
    assert 300 - first.count(right) >= hits[0]
    assert outcomes(file, FaultPlan([Fault("read", "flip", probability=0)]))[1] == [0]


def test_no_plan_no_faults(file):
    with FaultPlan([Fault("read", "error")]).installed(file):
        pass
    seen, hits, right = outcomes(file, FaultPlan())
    assert hits == [] and seen == [right] * 300


@pytest.mark.parametrize("arguments", [
    {"operation": "write", "kind": "flip"}, {"operation": "read", "kind": "lost"},
    {"operation": "read", "kind": "elsewhere"}, {"operation": "erase", "kind": "error"},
    {"operation": "read", "kind": "fire"}, {"operation": "read", "kind": "error", "at": 0},
    {"operation": "read", "kind": "error", "at": (5, 4)},
    {"operation": "read", "kind": "error", "probability": 1.5},
    {"operation": "read", "kind": "error", "argument": -5},
    {"operation": "write", "kind": "short", "argument": 0},
    {"operation": "write", "kind": "delay"}, {"operation": "punch", "kind": "torn"},
])
def test_a_fault_that_makes_no_sense(arguments):
    with pytest.raises(UsageError):
        Fault(**arguments)


@pytest.mark.tsan
def test_hits_are_exact_under_threads(file):
    plan = FaultPlan([Fault("write", "error", at=(101, 200)), Fault("read", "interrupt")])
    with plan.installed(file) as struck, ThreadPoolExecutor(8) as pool:
        tallies = list(pool.map(lambda seed: hammer(file, seed, 2000, 50), range(8)))
        hits = struck.hits()
    assert hits == [100, file.stats()["reads"]]
    assert sum(tally["failed"] for tally in tallies) == 100 == file.stats()["write_errors"]
    assert sum(tally["wrong"] for tally in tallies) == 0
    assert file.used_bytes == 0


@pytest.mark.tsan
def test_wrong_data_is_found_under_threads(file):
    plan = FaultPlan([Fault("read", "flip", at=(1, 100)), Fault("read", "torn", at=(201, 300))])
    with plan.installed(file) as struck, ThreadPoolExecutor(8) as pool:
        tallies = list(pool.map(lambda seed: hammer(file, seed, 2000, 50), range(8)))
        assert struck.hits() == [100, 100]
    assert sum(tally["wrong"] for tally in tallies) == 200


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_any_plan_is_survived_or_noticed(seed):
    """Every read gives the right data, an error, or data whose checksum differs."""
    plan = FaultPlan.random(seed, count=60, transfers=150)
    assert FaultPlan.random(seed, count=60, transfers=150) == plan
    dice = random.Random(seed)
    live = {}
    noticed = 0
    with SwapFile("2M") as file, plan.installed(file) as struck:
        for slot in range(200):
            n = dice.randint(1, 4096)
            offset, data = file.alloc(n), os.urandom(n)
            try:
                file.write(offset, data)
                live[slot] = (offset, data, checksum_of(data, slot))
            except SwapFileError:
                noticed += 1
                file.free(offset, n)
            back = dice.choice(list(live)) if live else None
            if back is not None:
                offset, data, want = live[back]
                try:
                    got = file.read(offset, len(data))
                except SwapFileError:
                    noticed += 1
                else:
                    assert (checksum_of(got, back) == want) == (got == data)
                    noticed += got != data
        file.check_valid()
        stats = file.stats()
        assert noticed >= stats["write_errors"] + stats["read_errors"]
        hits = dict(zip(plan.faults, struck.hits(), strict=True))
        if any(hits[f] for f in plan.faults if f.kind in ("error", "flip")):
            assert noticed
