"""What a crash, a failing disk and a full one leave: every flushed record, and never a wrong one."""

import errno
import os
import random
import shutil

import pytest

from coldmem.cache.log import Log
from coldmem.errors import CorruptDataError, SwapFileError

KIB = 1 << 10


class Disk:
    """The system calls, of which those in `faults` fail: (call, number from now on) -> errno."""

    def __init__(self):
        self.faults = {}
        self.counts = {}
        self.short = 0  # bytes that a write moves at most

    def _strike(self, call):
        self.counts[call] = self.counts.get(call, 0) + 1
        code = self.faults.get((call, self.counts[call]), self.faults.get((call, 0)))
        if code:
            raise OSError(code, os.strerror(code))

    def plan(self, **faults):
        self.counts = {}
        self.faults = {(call, number): code for call, (number, code) in faults.items()}

    def pwritev(self, fd, buffers, offset):
        buffers = [memoryview(b).cast("B") for b in buffers]
        if self.short:
            return os.pwrite(fd, b"".join(buffers)[:self.short], offset)
        try:
            self._strike("pwritev")
        except OSError:
            os.pwrite(fd, b"".join(buffers)[:100], offset)  # some of it got there
            raise
        return os.pwritev(fd, buffers, offset)

    def pread(self, fd, nbytes, offset):
        self._strike("pread")
        return os.pread(fd, nbytes, offset)

    def fdatasync(self, fd):
        self._strike("fdatasync")


def open_log(folder, **options):
    return Log(folder, **{"disk_max": None, "persistent": True, "segment_bytes": 64 * KIB, "io": Disk(),
                          **options})


def crash(log):
    """The folder as a killed process leaves it."""
    log._folder.close()
    log._folder = None
    log.closed = True


def content(log):
    """key -> payload of all that is there; all of it can be read."""
    out = {}
    for location, key, _ in log.recover():
        record = log.read(location)
        assert record.key == key
        out[key] = bytes(record.payload)
    return out


def written(folder):
    """A log of several versions, removals and deaths: its path, versions of each key, the newest."""
    log = open_log(folder)
    versions, places = {}, {}
    for turn in range(3):
        for i in range(6):
            key = b"k%d" % i
            payload = b"%d of %d " % (turn, i) * (1 + 3 * i)
            (place,) = log.append([(key, b"meta", [payload])])
            if key in places:
                log.free(places[key])
            places[key] = place
            versions.setdefault(key, []).append(payload)
    log.remove([b"k3"])
    log.free(places.pop(b"k3"))
    crash(log)
    (segment,) = folder.glob("*.segment")
    newest = {key: versions[key][-1] for key in places}
    return segment, versions, newest, sorted(places.values(), key=lambda place: place.offset)


def test_what_was_freed_as_gone_is_not_back(tmp_path):
    """After the next flush; what was only freed may be."""
    for gone in (False, True):
        log = open_log(tmp_path / str(gone))
        (old, _) = log.append([(b"key", b"", [b"old"]), (b"stays", b"", [b"s"])])
        log.flush()
        log.free(old, gone)
        log.flush()
        written = log.stats()["written_bytes"]
        log.flush()
        assert log.stats()["written_bytes"] == written
        crash(log)
        log = open_log(tmp_path / str(gone))
        assert content(log) == {b"stays": b"s"} if gone else {b"stays": b"s", b"key": b"old"}
        log.close()


# -- damage ----------------------------------------------------------------------------------------
def test_cut_off_at_every_byte(tmp_path):
    segment, versions, newest, places = written(tmp_path / "log")
    whole = segment.read_bytes()
    for length in range(places[0].offset, len(whole)):
        segment.write_bytes(whole[:length])
        log = open_log(tmp_path / "log")
        found = content(log)
        for key, payload in newest.items():
            place = next(p for p in places if whole[p.offset:p.offset + p.nbytes].find(key) > 0)
            if place.offset + place.nbytes <= length:
                assert found[key] == payload
            else:
                assert found[key] == versions[key][1], "flushed, and the newer one is not there"
        (new,) = log.append([(b"new", b"", [b"after"])])
        assert log.read(new).payload == b"after"
        crash(log)
        log = open_log(tmp_path / "log")
        assert content(log) == {**found, b"new": b"after"}
        crash(log)
        for file in (tmp_path / "log").glob("*.segment"):
            if file != segment:
                file.unlink()


def test_flipped_bits(tmp_path):
    segment, versions, newest, places = written(tmp_path / "log")
    whole = segment.read_bytes()
    dice = random.Random(3)
    damaged = 0
    for _ in range(300):
        bad = bytearray(whole)
        bit = dice.randrange(8 * len(whole))
        bad[bit >> 3] ^= 1 << (bit & 7)
        segment.write_bytes(bad)
        log = open_log(tmp_path / "log")
        found = content(log)
        struck = [p for p in places if p.offset <= bit >> 3 < p.offset + p.nbytes]
        damaged += log.stats()["damaged"]
        for key, payload in newest.items():
            mine = struck and whole[struck[0].offset:struck[0].offset + struck[0].nbytes].find(key) > 0
            if not mine:
                assert found[key] == payload
                continue
            head = bit >> 3 < struck[0].offset + 40 + len(key) + 4
            # A damaged head does not say whose it was. With the head, the key is known: no older
            # value comes back.
            assert found.get(key, payload) in (versions[key] if head else [payload])
        crash(log)
    assert damaged > 150


def test_a_read_that_strikes_damage_says_so_and_collecting_drops_it(tmp_path):
    log = open_log(tmp_path / "log")
    keys = [b"k%d" % i for i in range(400)]
    places = dict(zip(keys, log.append([(k, b"", [k * 100]) for k in keys]), strict=True))
    for key in keys[1::2]:
        log.remove([key])
        log.free(places.pop(key))
    bad, worse = places[b"k10"], places[b"k20"]
    os.pwrite(log._segments[bad.segment].fd, b"?", bad.offset + 100)
    os.pwrite(log._segments[worse.segment].fd, b"?", worse.offset + 12)
    for place in (bad, worse):
        with pytest.raises(CorruptDataError):
            log.read(place)
    log.collect(lambda key, old, new: not places.update({key: new}))
    assert log.stats()["damaged"] == 2
    del places[b"k10"], places[b"k20"]
    for key, place in places.items():
        assert log.read(place).payload == key * 100
    crash(log)
    assert content(open_log(tmp_path / "log")) == {key: key * 100 for key in places}


def test_a_removed_key_stays_away_when_its_tombstone_is_collected(tmp_path):
    """The old value's segment outlives that of the newer one, and of the tombstone."""
    log = open_log(tmp_path / "log")
    places = {}
    places[b"full"], old = log.append([(b"full", b"", [bytes(60_000)]), (b"key", b"", [b"old"])])
    middle, new = log.append([(b"x", b"", [bytes(62_000)]), (b"key", b"", [b"new" * 900])])
    assert new.segment != old.segment
    log.free(old)
    log.free(new)
    log.remove([b"key", b"x"])
    log.free(middle)
    filler = log.append([(b"f%d" % i, b"", [bytes(30_000)]) for i in range(4)])
    for i, place in enumerate(filler):
        log.remove([b"f%d" % i])
        log.free(place)
    for _ in range(3):
        log.collect(lambda key, old, new: not places.update({key: new}), want=100 * KIB)
    left = {number for number in log._segments}
    assert old.segment in left and new.segment not in left
    crash(log)
    log = open_log(tmp_path / "log")
    assert content(log).keys() == {b"full"}
    log.close()
    assert content(open_log(tmp_path / "log")).keys() == {b"full"}


def test_deaths_are_written_again_when_their_note_goes(tmp_path):
    """The segment that tells of a death is itself deleted as a whole, the dead record is still there."""
    log = open_log(tmp_path / "log")
    places = {}

    def collect():
        log.collect(lambda key, old, new: not places.update({key: new}))

    places[b"full"], old = log.append([(b"full", b"", [bytes(60_000)]), (b"key", b"", [b"old"])])
    middle, new = log.append([(b"x", b"", [bytes(62_000)]), (b"key", b"", [b"new" * 900])])
    for place in (old, new, middle):
        log.free(place)
    log.remove([b"key", b"x"])
    for turn in range(4):
        keys = [b"%d %d" % (turn, i) for i in range(4)]
        filler = log.append([(key, b"", [bytes(30_000)]) for key in keys])
        collect()
        for place in filler:
            log.free(place)
        log.remove(keys)
    collect()
    assert old.segment in log._segments and min(set(log._segments) - {old.segment}) > 6
    crash(log)
    assert content(open_log(tmp_path / "log")).keys() == {b"full"}


def test_what_only_a_scan_found_dead_stays_dead(tmp_path):
    """After a crash, the newest value is evicted and its segment deleted; the old one is still there."""
    log = open_log(tmp_path / "log")
    _, old = log.append([(b"full", b"", [bytes(60_000)]), (b"key", b"", [b"old"])])
    log.append([(b"x", b"", [bytes(50_000)]), (b"key", b"", [b"new" * 900])])
    log.append([(b"y", b"", [bytes(50_000)])])  # the head of later
    crash(log)  # before `old` was freed
    log = open_log(tmp_path / "log")
    places = {key: location for location, key, _ in log.recover()}
    assert places[b"key"].segment != old.segment
    log.free(places.pop(b"key"))
    log.free(places.pop(b"x"))
    log.collect(lambda key, old, new: not places.update({key: new}))
    assert old.segment in log._segments
    crash(log)
    assert content(open_log(tmp_path / "log")).keys() == {b"full", b"y"}


# -- the index -------------------------------------------------------------------------------------
class Counting(Disk):
    """Counts the bytes that are read."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def pread(self, fd, nbytes, offset):
        data = super().pread(fd, nbytes, offset)
        self.bytes += len(data)
        return data


@pytest.mark.parametrize("spoil", ["nothing", "index", "cut", "gone", "longer", "other"])
def test_the_index_counts_only_when_it_fits(tmp_path, spoil):
    folder = tmp_path / "log"
    log = open_log(folder, segment_bytes=1 << 20)
    log.append([(b"k%d" % i, b"m", [bytes([i]) * 100_000]) for i in range(30)])
    log.close()
    index = folder / "INDEX"
    segments = sorted(folder.glob("*.segment"))
    if spoil == "index":
        data = bytearray(index.read_bytes())
        data[len(data) // 2] ^= 1
        index.write_bytes(data)
    elif spoil == "cut":
        os.truncate(segments[0], segments[0].stat().st_size - 1000)
    elif spoil == "gone":
        segments[0].unlink()
    elif spoil == "longer":
        with segments[0].open("ab") as file:
            file.write(bytes(8))
    elif spoil == "other":
        shutil.copy(segments[0], folder / "00ffff.segment")
    disk = Counting()
    log = open_log(folder, io=disk)
    keys = {key for _, key, _ in log.recover()}
    assert not index.exists()  # from now on, only the records count
    assert (disk.bytes < 300_000) == (spoil == "nothing")
    lost = {"cut": 1, "gone": len(keys) and 30 - len(keys)}.get(spoil, 0)
    assert len(keys) == 30 - lost and (spoil != "gone" or lost >= 9)
    for location, key, _ in log.recover():
        assert log.read(location).payload == bytes([int(key[1:])]) * 100_000


# -- a disk that fails -----------------------------------------------------------------------------
@pytest.mark.parametrize("persistent", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_failed_append_leaves_nothing(tmp_path, persistent, code, number):
    disk = Disk()
    log = open_log(tmp_path / "log" if persistent else tmp_path, persistent=persistent, io=disk)
    kept = log.append([(b"kept", b"", [b"kept" * 1000])])
    before = {s.number: os.fstat(s.fd).st_size for s in log._segments.values()}
    used = log.used_bytes
    disk.plan(pwritev=(number, code))
    batch = [(b"k%d" % i, b"", [bytes([i]) * 20_000]) for i in range(10)]  # of four segments
    with pytest.raises(SwapFileError) as caught:
        log.append(batch)
    assert caught.value.errno == code
    assert log.used_bytes == used
    assert {s.number: os.fstat(s.fd).st_size for s in log._segments.values()} == before
    if persistent:
        assert len(list((tmp_path / "log").glob("*.segment"))) == len(before)
    disk.plan()
    places = log.append(batch)
    for place, (key, _, parts) in zip(places, batch, strict=True):
        assert log.read(place) == (key, b"", memoryview(parts[0]))
    assert log.read(kept[0]).payload == b"kept" * 1000
    if persistent:
        crash(log)
        assert content(open_log(tmp_path / "log")) == {b"kept": b"kept" * 1000,
                                                       **{k: p[0] for k, _, p in batch}}


def test_short_writes_are_continued(tmp_path):
    disk = Disk()
    log = open_log(tmp_path, persistent=False, io=disk)
    disk.short = 1000
    batch = [(b"k%d" % i, b"", [bytes([i]) * n]) for i, n in enumerate([10, 5000, 3, 20_000, 7])]
    for place, (key, _, parts) in zip(log.append(batch), batch, strict=True):
        assert log.read(place) == (key, b"", memoryview(parts[0]))


def test_a_failed_read_says_so(tmp_path):
    disk = Disk()
    log = open_log(tmp_path, persistent=False, io=disk)
    (place,) = log.append([(b"k", b"", [b"v"])])
    disk.plan(pread=(1, errno.EIO))
    with pytest.raises(SwapFileError) as caught:
        log.read(place)
    assert caught.value.errno == errno.EIO
    assert not isinstance(caught.value, CorruptDataError)
    assert log.read(place).payload == b"v"


def test_what_could_not_be_made_durable_is_not_called_durable_later(tmp_path):
    disk = Disk()
    log = open_log(tmp_path / "log", io=disk)
    places = dict(zip([b"a", b"b"], log.append([(b"a", b"", [b"1"]), (b"b", b"", [b"2"])]), strict=True))
    disk.plan(fdatasync=(1, errno.EIO))
    with pytest.raises(SwapFileError):
        log.flush()
    with pytest.raises(SwapFileError, match="before"):
        log.flush()  # the system has forgotten that it owes us these bytes
    log.collect(lambda key, old, new: not places.update({key: new}))
    log.flush()
    assert {key: log.read(place).payload for key, place in places.items()} == {b"a": b"1", b"b": b"2"}


@pytest.mark.parametrize("call", ["pwritev", "pread", "fdatasync"])
@pytest.mark.parametrize("persistent", [False, True])
def test_a_collecting_that_fails_anywhere_loses_nothing(tmp_path, call, persistent):
    for number in range(1, 8):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)
        disk = Disk()
        log = open_log(folder, persistent=persistent, io=disk)
        keys = [b"k%d" % i for i in range(900)]
        places = dict(zip(keys, log.append([(k, b"", [k * 50]) for k in keys]), strict=True))
        for key in keys[::2]:
            log.remove([key])
            log.free(places.pop(key))
        disk.plan(**{call: (number, errno.EIO)})
        try:
            log.collect(lambda key, old, new: not places.update({key: new}))
        except SwapFileError as error:
            assert error.errno == errno.EIO
        disk.plan()
        for key, place in places.items():
            assert log.read(place).payload == key * 50
        assert log.live_bytes == sum(place.nbytes for place in places.values())
        log.collect(lambda key, old, new: not places.update({key: new}))
        for key, place in places.items():
            assert log.read(place).payload == key * 50
        if persistent:
            crash(log)
            assert content(open_log(folder)) == {key: key * 50 for key in places}


@pytest.fixture
def small_disk(mount_disk):
    return mount_disk("1m")


@pytest.mark.parametrize("persistent", [False, True])
def test_a_full_disk(small_disk, persistent):
    log = open_log(small_disk / "log" if persistent else small_disk, persistent=persistent)
    places, full = {}, 0

    def moved(key, old, new):
        if places.get(key) != old:
            return False
        places[key] = new
        return True

    for i in range(400):
        key = b"k%d" % i
        try:
            (places[key],) = log.append([(key, b"", [key * 2000])])
        except SwapFileError as error:
            assert error.errno == errno.ENOSPC
            full += 1
            for old in list(places)[:10]:
                log.free(places.pop(old))
            try:
                log.collect(moved)
            except SwapFileError as again:
                assert again.errno == errno.ENOSPC
    assert full > 3
    assert len(places) > 40
    for key, place in places.items():
        assert log.read(place).payload == key * 2000
    if persistent:
        crash(log)
        again = open_log(small_disk / "log")
        found = content(again)
        assert found.keys() >= places.keys()
        assert all(payload == key * 2000 for key, payload in found.items())
    log.close()
