"""The cache's log: what goes in comes out, what is freed is given back, misuse is refused."""

import errno
import os
import random
import stat
import subprocess
import sys

import numpy as np
import pytest

from coldmem.cache import log_base, log_record
from coldmem.cache.log import Location, Log
from coldmem.errors import (
    ClosedError,
    CorruptDataError,
    MemoryLimitError,
    SwapFileError,
    UsageError,
)

KIB = 1 << 10
MIB = 1 << 20


def always(key, old, new):
    return True


def value(key: bytes, nbytes: int) -> bytes:
    return random.Random(key).randbytes(nbytes)


@pytest.fixture(params=[False, True], ids=["dies", "stays"])
def persistent(request):
    return request.param


@pytest.fixture
def make(tmp_path):
    logs = []

    def build(**options):
        options = {"disk_max": None, "persistent": False, "segment_bytes": 64 * KIB, **options}
        log = Log(tmp_path / "log" if options["persistent"] else tmp_path, **options)
        logs.append(log)
        return log

    yield build
    for log in logs:
        log.close()


def test_reads_what_was_appended(make, persistent):
    log = make(persistent=persistent)
    sizes = [0, 1, 7, 8, 9, 300, 4095, 4096, 5000, 40_000, 64 * KIB, 200_000]
    records = [(b"k%d" % i, bytes([i]) * (i * 20), [value(b"k%d" % i, n)])
               for i, n in enumerate(sizes)]
    locations = log.append(records) + log.append(records)
    assert len(set(locations)) == 2 * len(sizes)
    for location, (key, meta, parts) in zip(locations, records * 2, strict=True):
        assert log.read(location) == (key, meta, memoryview(parts[0]))
        assert location.nbytes % 8 == 0
    assert log.live_bytes == sum(location.nbytes for location in locations)
    stats = log.stats()
    assert stats["reads"] == len(locations)
    assert stats["read_bytes"] == log.live_bytes
    assert stats["written_bytes"] == stats["used_bytes"] == log.live_bytes + 40 * stats["segments"]


@pytest.mark.parametrize("parts", [
    [], [b""], [b"", b"x"], [b"abc", bytearray(b"defg"), memoryview(b"hi")],
    [bytes(9000), value(b"a", 9001), b"z"], [value(b"b", 30)] * 3000,
    [np.arange(3000, dtype=np.float64), b"-", memoryview(np.arange(5000, dtype=np.int16))],
], ids=lambda parts: str(len(parts)))
def test_payload_in_parts(make, parts):
    log = make()
    locations = log.append([(b"before", b"", [b"1"]), (b"key", b"meta", parts), (b"after", b"", [b"2"])])
    assert log.read(locations[1]).payload == b"".join(bytes(memoryview(p).cast("B")) for p in parts)
    assert log.read(locations[2]).payload == b"2"
    for location in locations[::2]:
        log.free(location)
    kept = {}
    log.collect(lambda key, old, new: not kept.update({key: new}))  # moved: parts become one
    found = log.read(kept.get(b"key", locations[1]))
    assert found.payload == b"".join(bytes(memoryview(p).cast("B")) for p in parts)


def test_a_large_payload_is_not_copied(make):
    class Spy:
        pread = staticmethod(os.pread)
        fdatasync = staticmethod(os.fdatasync)

        def __init__(self):
            self.buffers = []

        def pwritev(self, fd, buffers, offset):
            self.buffers += buffers
            return os.pwritev(fd, buffers, offset)

    spy = Spy()
    log = make(io=spy, segment_bytes=MIB)
    big = bytearray(100_000)
    log.append([(b"k%d" % i, b"", [b"s" * 100]) for i in range(500)] + [(b"big", b"", [big])])
    assert any(buffer is big for buffer in spy.buffers)
    assert log.stats()["writes"] == 1
    assert len(spy.buffers) <= 3  # the small ones were gathered


def test_dead_segments_are_given_back_at_once(make):
    log = make()
    locations = log.append([(b"k%d" % i, b"", [value(b"x", 1000)]) for i in range(1000)])
    assert log.stats()["segments"] > 10
    for location in locations:
        log.free(location)
        log.free(location)  # a second time changes nothing
    assert log.live_bytes == 0
    assert log.used_bytes <= 64 * KIB
    assert log.garbage() == log.used_bytes


def test_a_large_dead_record_gives_its_space_back(make, tmp_path):
    log = make(segment_bytes=MIB)
    large, _ = log.append([(b"large", b"", [value(b"l", 600_000)]), (b"s", b"", [b"small"])])
    before = log.used_bytes
    log.free(large)
    if log.used_bytes == before:
        pytest.skip(f"{tmp_path}: this file system cannot punch holes")
    assert before - log.used_bytes > 590_000
    segment = log._segments[large.segment]
    assert os.fstat(segment.fd).st_blocks * 512 < 100_000


def test_collecting_moves_what_lives(make, persistent):
    log = make(persistent=persistent)
    places = {}
    for start in range(0, 3000, 100):
        keys = [b"k%d" % i for i in range(start, start + 100)]
        records = [(key, b"m" + key, [value(key, 300)]) for key in keys]
        places.update(zip(keys, log.append(records), strict=True))
    dice = random.Random(5)
    gone = dice.sample(sorted(places), 2000)
    for key in gone:
        log.free(places.pop(key))
    late = set(dice.sample(sorted(places), 100))

    def moved(key, old, new):
        assert places[key] == old
        assert log.read(new) == log.read(old)
        if key in late:
            del places[key]
            return False
        places[key] = new
        return True

    before = log.used_bytes
    given = log.collect(moved)
    assert given > 0
    assert before - log.used_bytes == pytest.approx(given, abs=20 * KIB)  # it notes deaths, too
    assert log.live_bytes == sum(place.nbytes for place in places.values())
    assert log.garbage() < log.used_bytes / 3
    for key, place in places.items():
        assert log.read(place) == (key, b"m" + key, memoryview(value(key, 300)))


def test_collecting_stops_when_it_has_enough(make):
    log = make()
    locations = log.append([(b"k%d" % i, b"", [bytes(500)]) for i in range(2000)])
    for location in locations[::2]:
        log.free(location)
    segments = log.stats()["segments"]
    assert 30 * KIB <= log.collect(always, want=30 * KIB) < 80 * KIB
    assert log.stats()["segments"] >= segments - 2


def test_a_callback_that_raises_loses_nothing(make, persistent):
    log = make(persistent=persistent)
    keys = [b"k%d" % i for i in range(1000)]
    places = dict(zip(keys, log.append([(k, b"", [value(k, 200)]) for k in keys]), strict=True))
    for key in keys[::2]:
        log.free(places.pop(key))
    calls = 0

    def moved(key, old, new):
        nonlocal calls
        calls += 1
        if calls == 77:
            raise ZeroDivisionError
        places[key] = new
        return True

    with pytest.raises(ZeroDivisionError):
        log.collect(moved)
    assert log.live_bytes == sum(place.nbytes for place in places.values())
    log.collect(moved)
    for key, place in places.items():
        assert log.read(place).payload == value(key, 200)
    assert log.live_bytes == sum(place.nbytes for place in places.values())


# -- limits ---------------------------------------------------------------------------------------
def test_disk_max_holds(make, persistent, tmp_path):
    log = make(persistent=persistent, disk_max=MIB)
    places, number = {}, 0

    def moved(key, old, new):
        if places.get(key) != old:
            return False
        places[key] = new
        return True

    refused = 0
    while number < 5000:
        keys = [b"k%d" % (number + i) for i in range(50)]
        try:
            new = log.append([(key, b"", [value(key, 400)]) for key in keys])
        except MemoryLimitError:
            refused += 1
            for key in random.Random(number).sample(sorted(places), 150):
                log.remove([key])
                log.free(places.pop(key))
            log.collect(moved, want=64 * KIB)
            continue
        places.update(zip(keys, new, strict=True))
        number += 50
        on_disk = sum(s.disk_bytes for s in log._segments.values())
        assert on_disk == log.used_bytes <= MIB
        if persistent:
            assert sum(f.stat().st_size for f in (tmp_path / "log").iterdir()) <= MIB
    assert refused > 10
    assert len(places) * 450 > MIB * 0.5
    for key, place in places.items():
        assert log.read(place).payload == value(key, 400)
    log.close()
    if persistent:
        assert sum(f.stat().st_size for f in (tmp_path / "log").iterdir()) <= MIB


def test_segments_grow_so_that_descriptors_stay_few(make, monkeypatch):
    monkeypatch.setattr(log_base, "DESCRIPTORS", 16)
    log = make(segment_bytes=4 * KIB)
    for i in range(500):
        log.append([(b"k%d" % i, b"", [bytes(3000)])])
    assert log.stats()["segments"] < 100  # it would be 500


def test_numbers_of_segments_are_used_again(make, monkeypatch):
    monkeypatch.setattr(log_base, "SEGMENTS_MAX", 8)
    log = make(segment_bytes=4 * KIB)
    kept, *_ = log.append([(b"kept", b"", [b"kept" * 900])])
    for _ in range(50):
        (location,) = log.append([(b"k", b"", [bytes(3900)])])
        assert location.segment < 8
        log.free(location)
    assert log.read(kept).payload == b"kept" * 900


def test_meta_and_key_have_a_limit(make):
    log = make()
    with pytest.raises(UsageError, match="256"):
        log.append([(b"fits", b"", [b"x"]), (b"k", bytes(256), [b"x"])])
    assert log.used_bytes == 0
    (location,) = log.append([(b"k" * 100_000, bytes(255), [b"x"])])
    assert log.read(location) == (b"k" * 100_000, bytes(255), memoryview(b"x"))


@pytest.mark.parametrize("options", [
    {"disk_max": 100}, {"segment_bytes": 10}, {"segment_bytes": 1 << 40},
    {"directory": None, "persistent": True}])
def test_refuses_what_makes_no_sense(tmp_path, options):
    with pytest.raises(UsageError):
        Log(**{"directory": tmp_path, "disk_max": None, "persistent": False, **options})


# -- reading what is not there ---------------------------------------------------------------------
def test_a_wrong_location_is_never_a_record(make):
    log = make()
    locations = log.append([(b"k%d" % i, b"", [value(b"v", 100)]) for i in range(20)])
    number, offset, nbytes = locations[3]
    for wrong in [(number, offset + 8, nbytes), (number, offset, nbytes + 8),
                  (number + 1, offset, nbytes),
                  (number, offset, nbytes - 8), (number, offset, 8), (number, 1 << 31, nbytes),
                  (number, 0, 40)]:
        with pytest.raises(CorruptDataError):
            log.read(Location(*wrong))


def test_a_record_copied_elsewhere_is_not_a_record(make, persistent):
    log = make(persistent=persistent)
    a, b = log.append([(b"a", b"", [b"1" * 50]), (b"b", b"", [b"2" * 50])])
    fd = log._segments[a.segment].fd
    os.pwrite(fd, os.pread(fd, a.nbytes, a.offset), b.offset)
    with pytest.raises(CorruptDataError):
        log.read(b)
    assert log.read(a).payload == b"1" * 50


def test_every_bit_counts(make):
    log = make()
    (location,) = log.append([(b"key", b"meta", [value(b"p", 61)])])
    fd = log._segments[location.segment].fd
    good = os.pread(fd, location.nbytes, location.offset)
    end = log_record.HEAD_BYTES + 3 + 4 + 61  # after it, there is padding
    for bit in range(8 * end):
        bad = bytearray(good)
        bad[bit >> 3] ^= 1 << (bit & 7)
        os.pwrite(fd, bad, location.offset)
        with pytest.raises(CorruptDataError):
            log.read(location)
    os.pwrite(fd, good, location.offset)
    assert log.read(location).key == b"key"


# -- the folder ------------------------------------------------------------------------------------
def test_files_are_for_their_owner_alone(make, tmp_path):
    log = make(persistent=True)
    log.append([(b"k", b"", [b"v"])])
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o700
    for file in (tmp_path / "log").iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    make().append([(b"k", b"", [b"v"])])
    assert [p.name for p in tmp_path.iterdir()] == ["log"]  # the other has no names


def test_one_log_at_a_time(make, tmp_path):
    log = make(persistent=True)
    with pytest.raises(UsageError, match="open already"):
        Log(tmp_path / "log", disk_max=None, persistent=True)
    code = ("import sys; from coldmem.cache.log import Log\n"
            "Log(sys.argv[1], disk_max=None, persistent=True)")
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "log"], capture_output=True, text=True)
    assert run.returncode and "open already" in run.stderr
    log.close()
    Log(tmp_path / "log", disk_max=None, persistent=True).close()


def test_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="not the folder of a cache"):
        Log(tmp_path, disk_max=None, persistent=True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_another_format_and_a_damaged_one(make, tmp_path):
    make(persistent=True).close()
    path = tmp_path / "log" / "FORMAT"
    text = path.read_bytes()
    path.write_bytes(text[:-5] + b"0000\n")
    with pytest.raises(CorruptDataError, match="remove the folder"):
        make(persistent=True)
    head = text[:text.index(b"sum")].replace(b"format 1", b"format 9")
    path.write_bytes(head + b"sum %016x\n" % log_record.checksum_of(head))
    with pytest.raises(UsageError, match="format 9"):
        make(persistent=True)
    path.write_bytes(text)
    make(persistent=True)


def test_a_directory_that_cannot_be_used(tmp_path):
    with pytest.raises(SwapFileError, match=f"there is no {tmp_path / 'no'}; make that") as caught:
        Log(tmp_path / "no" / "x", disk_max=None, persistent=False)
    assert caught.value.errno == errno.ENOENT
    (tmp_path / "file").write_text("")
    with pytest.raises(SwapFileError):
        Log(tmp_path / "file" / "x", disk_max=None, persistent=True)


def test_must_be_recovered_first(make):
    log = make(persistent=True)
    log.append([(b"k", b"", [b"v"])])
    log.close()
    log = make(persistent=True)
    with pytest.raises(UsageError, match="recover"):
        log.append([(b"k", b"", [b"w"])])
    log.close()  # and nothing was changed
    log = make(persistent=True)
    ((location, _, _),) = log.recover()
    assert log.read(location) == (b"k", b"", memoryview(b"v"))
    assert log.append([(b"k", b"", [b"w"])])


def test_closed(make, persistent):
    log = make(persistent=persistent)
    (location,) = log.append([(b"k", b"", [b"v"])])
    descriptors = len(os.listdir("/proc/self/fd"))
    log.close()
    log.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors - 1 - persistent
    log.free(location)
    for call in (lambda: log.append([(b"k", b"", [b"v"])]), lambda: log.read(location), log.flush,
                 log.clear, lambda: log.collect(always)):
        with pytest.raises(ClosedError):
            call()


def test_clear(make, persistent):
    log = make(persistent=persistent)
    (old, _) = log.append([(b"k%d" % i, b"", [bytes(60_000)]) for i in range(2)])
    log.clear()
    assert log.live_bytes == 0
    assert log.used_bytes < 100
    with pytest.raises(CorruptDataError):
        log.read(old)
    (new,) = log.append([(b"k0", b"", [b"new"])])
    assert log.read(new).payload == b"new"
    if persistent:
        log._folder.close()
        log._folder = None  # as a crash leaves it
        assert [key for _, key, _ in make(persistent=True).recover()] == [b"k0"]


def test_a_child_may_read_only(make, persistent):
    log = make(persistent=persistent, segment_bytes=MIB)
    location, _ = log.append([(b"k", b"", [b"v" * 100_000]), (b"other", b"", [b"in the same segment"])])
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert log.read(location).key == b"k"
            log.free(location)
            for call in (lambda: log.append([(b"k", b"", [b"w"])]), lambda: log.collect(always),
                         log.clear):
                try:
                    call()
                except UsageError:
                    continue
                raise AssertionError
            log.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert log.read(location).payload == b"v" * 100_000
    if persistent:
        with pytest.raises(UsageError, match="open already"):
            make(persistent=True)


def test_its_memory_is_accounted(make):
    import tracemalloc
    log = make(segment_bytes=MIB)
    records = [(b"k%05d" % i, b"", [b"x" * 40]) for i in range(500)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(40):
            log.append(records)
        taken = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert taken / 1.5 < log.metadata_bytes < taken * 1.5, (taken, log.metadata_bytes)
    assert log.metadata_bytes < 6 * 20_000 + 6000  # 4 bytes a record and a little
