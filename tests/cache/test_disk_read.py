"""What is large is read from disk straight to where it stays: the same checks, the same errors."""

import os
import random

import numpy as np
import pytest

from coldmem import Cache
from coldmem.cache.disk_read import META, raw_table
from coldmem.cache.log import Location, Log
from coldmem.cache.log_fill import fill
from coldmem.cache.log_record import payload_sum
from coldmem.cache.space import Space
from coldmem.errors import CorruptDataError, SwapFileError

MIB = 1 << 20


class Slow:
    """Another `io` than `os`."""

    pwritev = staticmethod(os.pwritev)
    pread = staticmethod(os.pread)
    fdatasync = staticmethod(os.fdatasync)


def noise(nbytes, seed=0):
    return random.Random(seed).randbytes(nbytes)


def address(thing):
    return np.frombuffer(thing, np.uint8).ctypes.data


def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


# -- memory ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("nbytes", [0, 1, 63, 4096, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 4097])
def test_space(nbytes):
    space = Space(nbytes)
    view = memoryview(space)
    assert len(space) == view.nbytes == nbytes and not view.readonly
    data = noise(nbytes)
    view[:] = data
    del space
    assert view == data
    if nbytes:
        assert address(view) % 64 == 0


def test_space_goes_back():
    for nbytes in (2 * MIB, 2 * MIB + 1, 2 * MIB + 65 * 1024):
        Space(nbytes)
        before = address_space()
        for _ in range(200):
            Space(nbytes)
        assert address_space() - before < 8 * MIB


def test_too_much_space():
    with pytest.raises(MemoryError, match="bytes"):
        Space(1 << 60)


# -- filling ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(40))
def test_fill(seed, tmp_path):
    """Whatever the parts, and whatever the rooms."""
    rng = random.Random(seed)
    sizes = [0, 0, 1, 7, 8, 31, 32, 33, 63, 64, 100, 4096, 70_001, 512 * 1024, 700_007]
    parts = [rng.choice(sizes) for _ in range(rng.choice([1, 2, 3, 9, 255]))]
    whole = noise(sum(parts), seed)
    cuts = sorted(rng.randrange(len(whole) + 1) for _ in range(rng.randrange(4)))
    rooms = [rng.choice([Space, bytearray])(b - a)
             for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    path = tmp_path / "file"
    path.write_bytes(bytes(24) + whole)
    expected = payload_sum(memoryview(whole), parts, seed)
    with path.open("rb") as file:
        for source in (file.fileno(), whole):
            for room in rooms:
                memoryview(room)[:] = bytes(len(room))
            assert fill(source, 24, rooms, parts, seed) == expected
            assert b"".join(rooms) == whole


def test_fill_what_is_not_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(noise(700_000))
    with path.open("rb") as file:
        fd = file.fileno()
        assert fill(fd, 1, [Space(700_000)], [700_000], 0) is None
        assert fill(fd, 0, [Space(600_000)], [600_001], 0) is None
        assert fill(fd, 0, [Space(300)], [1] * 300, 0) is None
    assert fill(bytes(9), 0, [Space(10)], [10], 0) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        fill(fd, 0, [Space(10)], [10], 0)


# -- values ----------------------------------------------------------------------------------------
@pytest.fixture(params=["os", "io"])
def cache(request, tmp_path):
    with Cache("64MiB", directory=tmp_path, lossless=True) as made:
        if request.param == "io":
            made._tier.log._io = Slow()
        yield made


def not_called(*_):
    raise AssertionError("it is not to be copied")


@pytest.mark.parametrize("nbytes", [130 * 1024, MIB, 4 * MIB + 24])
def test_stored_as_it_is(cache, nbytes):
    array = np.frombuffer(noise(nbytes), np.uint64)
    cache.set_on_disk("array", array.copy())
    cache.set_on_disk("bytes", noise(nbytes))
    cache.set_on_disk("pair", (array.copy(), [1]))
    cache._decode = not_called
    found = cache.peek("array")
    assert found.flags.writeable and found.ctypes.data % 64 == 0
    np.testing.assert_array_equal(found, array)
    found[:] = 0
    assert cache.peek("bytes") == noise(nbytes) and type(cache.peek("bytes")) is bytes
    found, rest = cache.peek("pair")
    assert rest == [1] and found.ctypes.data % 64 == 0
    np.testing.assert_array_equal(cache.peek("array"), array)
    assert cache.stats()["ram_entries"] == 0
    assert cache.stats()["disk_reads"] == 5 and cache.stats()["read_bytes"] > 5 * nbytes


def test_what_did_not_compress(cache):
    """The table and the data are one part of its record: a sum goes on from one room to the next."""
    cache["bytes"], cache["array"] = noise(MIB), np.frombuffer(noise(MIB + 8, 1), np.uint64)
    assert cache.evict("8MiB") and cache.stats()["ram_entries"] == 0
    cache._decode = not_called
    assert cache.peek("bytes") == noise(MIB)
    assert cache.peek("array").tobytes() == noise(MIB + 8, 1)


def test_compressed(cache):
    """Also what is compressed in a part of its chunks only, and what goes back to RAM."""
    values = {"half": bytes(MIB) + noise(MIB), "all": bytes(5 * MIB) + noise(200_000),
              "array": np.arange(3 * MIB // 8) ** 3, "noise": noise(MIB)}
    cache.update(values)
    for read in (cache.peek, cache.get):
        cache.evict("64MiB")
        assert cache.stats()["ram_entries"] == 0
        for key, value in values.items():
            found = read(key)
            assert type(found) is type(value)
            if key == "array":
                assert found.flags.writeable and found.ctypes.data % 64 == 0
                np.testing.assert_array_equal(found, value)
            else:
                assert found == value
    assert cache.stats()["ram_entries"] == 4
    np.testing.assert_array_equal(cache["array"], values["array"])
    assert cache["array"].ctypes.data % 64 == 0
    cache.check_valid()


def places(cache):
    """Where the first record of a log begins, its table, its last byte."""
    (segment,) = cache._tier.log._segments.values()
    (offset,) = segment.live_offsets()
    location = Location(segment.number, offset, segment.live_bytes)
    head = cache._tier.log.read_head(location)
    at = offset + head.payload_at
    return segment, (offset + 9, offset + 41, at - 1, at, at + 100_000, at + head.payload_bytes - 1)


@pytest.mark.parametrize("value", [noise(300_001), bytes(300_000) + noise(300_001)])
@pytest.mark.parametrize("which", range(6))
def test_damage(cache, which, value):
    if value[0]:
        cache.set_on_disk("key", value)
    else:
        cache["key"] = value
        cache.evict("64MiB")
    assert cache.peek("key") == value
    segment, all_places = places(cache)
    at = all_places[which]
    good = os.pread(segment.fd, 1, at)
    os.pwrite(segment.fd, bytes([good[0] ^ 16]), at)
    for read in (cache.peek, cache.get):
        with pytest.raises(CorruptDataError, match="is not what was written"):
            read("key")
    os.pwrite(segment.fd, good, at)
    assert cache.peek("key") == value
    os.ftruncate(segment.fd, all_places[-1] - 8)
    with pytest.raises(CorruptDataError, match="is not what was written"):
        cache.peek("key")


def test_damage_where_things_may_go(tmp_path):
    heard = []
    with Cache("64MiB", directory=tmp_path, on_evict=lambda *row: heard.append(row)) as cache:
        cache.set_on_disk("key", noise(MIB))
        segment, all_places = places(cache)
        os.pwrite(segment.fd, b"spoilt", all_places[4])
        assert cache.peek("key") is None and "key" not in cache
        assert heard == [("key", "corrupt")] and cache.stats()["corrupt"] == 1


def test_a_disk_that_cannot_be_read(cache, tmp_path):
    cache.set_on_disk("key", noise(MIB))
    segment, _ = places(cache)
    fd, segment.fd = segment.fd, os.open(tmp_path, os.O_RDONLY)  # a folder
    try:
        with pytest.raises(SwapFileError, match="directory"):
            cache.peek("key")
    finally:
        os.close(segment.fd)
        segment.fd = fd
    assert cache.peek("key") == noise(MIB)


def test_another_table(cache):
    """Its sum is right: what was written was wrong."""
    data = noise(300_000)
    table = bytearray(raw_table(len(data)))
    table[3] = 0
    cache._tier.put(cache._bytes_of_key("key"), [bytes(table), data], 0, 0, len(data), None, False)
    with pytest.raises(CorruptDataError, match="table"):
        cache.peek("key")


def test_another_key(cache):
    meta = META.pack(0, 0, True, 0, MIB, 0.0)
    cache.set_on_disk("key", noise(MIB))
    segment, _ = places(cache)
    (place,) = cache._tier.log.append([(cache._bytes_of_key("kez"), meta,
                                        [raw_table(MIB), noise(MIB)])])
    (offset,) = [at for at in segment.live_offsets() if at != place.offset]
    assert cache._moved(cache._bytes_of_key("key"), (segment.number, offset, 0), place)
    with pytest.raises(CorruptDataError, match="another record"):
        cache.peek("key")


def test_a_head_that_is_not_there(tmp_path):
    log = Log(tmp_path, disk_max=None, persistent=False)
    (place,) = log.append([(b"k", b"", [noise(MIB)])])
    assert log.read_head(place).payload_bytes == MIB
    for wrong in (place._replace(offset=place.offset + 8), place._replace(nbytes=place.nbytes - 8),
                  place._replace(offset=0)):
        with pytest.raises(CorruptDataError, match="is not what was written"):
            log.read_head(wrong)
    with pytest.raises(CorruptDataError, match="not there"):
        log.read_head(place._replace(segment=9))
    log.close()
