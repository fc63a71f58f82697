"""The cache's log in a process that is killed at any moment."""

import contextlib
import random
import select
import signal
import subprocess
import sys

from coldmem.cache.log import Log

CHILD = """
import os, random, sys
from coldmem.cache.log import Log
from coldmem.errors import MemoryLimitError
log = Log(sys.argv[1], disk_max=400_000, persistent=True, segment_bytes=16384)
dice = random.Random(sys.argv[2])
turn = int(sys.argv[3])
places = {int(key): place for place, key, meta in log.recover()}
def say(letter, pairs):
    os.write(1, (letter + " ".join(f"{n}:{t}" for n, t in pairs) + "\\n").encode())
def moved(key, old, new):
    if places.get(int(key)) != old:
        return False
    places[int(key)] = new
    return True
def remove(numbers):
    say("will ", [(n, 0) for n in numbers])
    for n in numbers:
        if n in places:
            log.free(places.pop(n))
    log.remove([b"%d" % n for n in numbers])
    return [(n, 0) for n in numbers]
while True:
    turn += 1
    numbers = dice.sample(range(400), 30)
    done = remove(numbers[:4])
    say("will ", [(n, turn) for n in numbers[4:]])
    rows = [(b"%d" % n, b"%d" % turn, [b"%d:%d " % (n, turn) * dice.randrange(1, 90)])
            for n in numbers[4:]]
    try:
        for n, place in zip(numbers[4:], log.append(rows)):
            if n in places:
                log.free(places[n])
            places[n] = place
            done.append((n, turn))
    except MemoryLimitError:
        if not log.collect(moved, want=40_000):
            done += remove(dice.sample(sorted(places), 60))
    if dice.random() < 0.1:
        log.collect(moved)
    log.flush()
    say("did ", done)
"""


def test_killed_at_any_moment(tmp_path):
    """A child appends, removes, collects, flushes, and says what it will do and did; then SIGKILL."""
    dice = random.Random(11)
    flushed = dict.fromkeys(range(400), 0)  # key -> the turn of its value; 0: it is not there
    turn = deleted = 0
    kill = 0
    while kill < 6 or deleted <= 20 or turn <= 20:
        assert kill < 60, "it hardly ever comes to collecting"
        child = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path / "log", str(kill), str(turn)],
                                 stdout=subprocess.PIPE)
        try:
            assert select.select([child.stdout], [], [], 60)[0], "it did nothing"
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(dice.uniform(0.02, 0.25))
            assert child.poll() is None, "it ended by itself"
        finally:
            child.send_signal(signal.SIGKILL)
            said = child.stdout.read().decode()
            child.wait()
            child.stdout.close()
        open_ends: dict[int, set[int]] = {}  # what was begun since
        for line in said.split("\n")[:-1]:
            word, *pairs = line.split(" ")
            for number, at in (map(int, pair.split(":")) for pair in pairs):
                turn = max(turn, at)
                if word == "did":
                    flushed[number] = at
                else:
                    open_ends.setdefault(number, set()).add(at)
            if word == "did":
                open_ends.clear()
        log = Log(tmp_path / "log", persistent=True, disk_max=400_000, segment_bytes=16384)
        found = dict.fromkeys(range(400), 0)
        for location, key, meta in log.recover():
            words = set(bytes(log.read(location).payload).split(b" ")) - {b""}
            assert words == {key + b":" + meta}
            found[int(key)] = int(meta)
        assert log.stats()["damaged"] <= 1  # what it was just writing
        for number, at in found.items():
            assert at in {flushed[number]} | open_ends.get(number, set()), (number, at, kill)
        deleted += max(log._segments) + 1 - len(log._segments)
        flushed = found
        if kill % 2:
            log.close()
        else:  # as a killed process leaves the folder
            log._folder.close()
            log._folder = None
            log.closed = True
        kill += 1
