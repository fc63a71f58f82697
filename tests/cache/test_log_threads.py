"""The log with many threads: readers see right records while others append, free and collect."""

import os
import random
import threading
import time

import pytest

from coldmem.cache.log import Log
from coldmem.errors import CorruptDataError

KIB = 1 << 10
KEYS = 300


@pytest.mark.tsan
@pytest.mark.parametrize("persistent", [False, True])
def test_readers_while_all_is_moved(tmp_path, run_threads, stress_seconds, persistent):
    log = Log(tmp_path / "log", disk_max=None, persistent=True, segment_bytes=16 * KIB) if persistent \
        else Log(tmp_path, disk_max=None, persistent=False, segment_bytes=16 * KIB)
    lock = threading.Lock()  # as a cache's index has it; never held while the log is called
    writing = threading.Lock()  # so that `moved` knows of what was appended
    places = {}
    end = time.monotonic() + stress_seconds / 2
    reads, misses, moves = [], [], []

    def more():
        """On a busy machine it takes longer until all of it has happened."""
        now = time.monotonic()
        return now < end or ((len(reads) <= 100 or not moves) and now < end + 30)

    def payload(key, turn):
        return b"%s %d|" % (key, turn) * (20 + turn % 50)

    def write(seed):
        dice = random.Random(seed)
        turn = 0
        while more():
            turn += 1
            keys = [b"%d:%d" % (seed, n) for n in dice.sample(range(KEYS), 10)]
            olds = []
            with writing:
                new = log.append([(key, b"%d" % turn, [payload(key, turn)]) for key in keys])
                for key, place in zip(keys, new, strict=True):
                    with lock:
                        olds.append(places.get(key))
                        places[key] = place
            for old in olds:
                if old is not None:
                    log.free(old)
            if turn % 5 == 0:
                gone = [b"%d:%d" % (seed, n) for n in dice.sample(range(KEYS), 10)]
                for key in gone:
                    with lock:
                        old = places.pop(key, None)
                    if old is not None:
                        log.free(old)
                log.remove(gone)

    def read(seed):
        dice = random.Random(seed)
        while more():
            key = b"%d:%d" % (dice.randrange(2), dice.randrange(KEYS))
            with lock:
                place = places.get(key)
            if place is None:
                continue
            try:
                record = log.read(place)
            except CorruptDataError:
                # Allowed only where the place was given up meanwhile.
                with lock:
                    assert places.get(key) != place
                misses.append(1)
                continue
            if record.key == key:
                assert record.payload == payload(key, int(record.meta))
                reads.append(1)
            else:
                with lock:  # the number of a deleted segment was used again
                    assert places.get(key) != place

    def moved(key, old, new):
        moves.append(1)
        with lock:
            if places.get(key) != old:
                return False
            places[key] = new
            return True

    def collect():
        while more():
            with writing:
                log.collect(moved, random.choice([None, 20 * KIB]))

    def flush():
        while more():
            log.flush()
            time.sleep(0.005)

    run_threads(lambda: write(0), lambda: write(1), lambda: read(7), lambda: read(8), collect, flush)
    assert len(reads) > 100 and moves
    assert log.live_bytes == sum(place.nbytes for place in places.values())
    for key, place in places.items():
        record = log.read(place)
        assert record.key == key and record.payload == payload(key, int(record.meta))
    expected = {key: bytes(log.read(place).payload) for key, place in places.items()}
    log.close()
    if persistent:
        log = Log(tmp_path / "log", disk_max=None, persistent=True)
        assert {key: bytes(log.read(place).payload) for place, key, _ in log.recover()} == expected
        log.close()


@pytest.mark.tsan
def test_a_reader_keeps_a_deleted_file_open(tmp_path, run_threads):
    class Slow:
        """Reads only once the segment is gone."""

        def __init__(self):
            self.reading = threading.Event()
            self.deleted = threading.Event()

        def pread(self, fd, nbytes, offset):
            self.reading.set()
            assert self.deleted.wait(20)
            return os.pread(fd, nbytes, offset)

        def pwritev(self, fd, buffers, offset):
            return os.pwritev(fd, buffers, offset)

        def fdatasync(self, fd):
            pass

    files = Slow()
    log = Log(tmp_path, disk_max=None, persistent=False, segment_bytes=4 * KIB, io=files)
    (place,) = log.append([(b"k", b"", [b"v" * 3000])])

    def delete():
        assert files.reading.wait(20)
        log.free(place)
        assert log.stats()["segments"] == 0
        # Descriptors that are free now must not be the one that is being read.
        log.append([(b"other", b"", [b"o" * 3000])])
        files.deleted.set()

    record, _ = run_threads(lambda: log.read(place), delete)
    assert record.payload == b"v" * 3000
