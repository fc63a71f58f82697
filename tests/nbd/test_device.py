"""The device without a server: ranges of bytes on units, limits, faults, records."""

import errno
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit_data import UNIT, noise, same, sized, text

from coldmem.codecs import PythonCodec
from coldmem.errors import ClosedError, MemoryLimitError, SwapFileError, UsageError
from coldmem.nbd.device import Device
from coldmem.nbd.recorded import trace_of
from coldmem.nbd.trace import LOAD, STORE, TRIM
from coldmem.testing.faults import Fault, FaultPlan
from coldmem.zswap import Zswap

HOLE = 3


# -- a model: any sequence of calls, against a bytearray ------------------------------------------
PLACES = 40  # in units, and a little


@st.composite
def calls(draw, unit):
    size = PLACES * unit + draw(st.sampled_from([0, 1, 512, unit - 1]))
    steps = draw(st.lists(st.tuples(
        st.sampled_from(["write", "write", "write", "read", "trim", "zero", "keep", "status"]),
        st.integers(0, PLACES), st.sampled_from([0, 0, 0, 1, 7, 512, unit // 2, unit - 1]),
        st.integers(0, 4), st.sampled_from([0, 0, 1, 100, unit // 2, unit - 1]),
        st.sampled_from(["text", "noise", "zero", "same"])), max_size=60))
    return size, steps


def content_of(kind, key, n, unit):
    if kind == "zero":
        return bytes(n)
    if kind == "same":
        return bytes([key % 255 + 1]) * n
    one = (text if kind == "text" else noise)(key, unit)
    return (one * (n // unit + 1))[:n]


def run_model(unit, size, steps, **options):
    content = bytearray(size)
    stored = [False] * (size // unit + 1)  # may be: units that were written since they were holes
    with Zswap(unit_bytes=unit, shrinker_thread=False, swap=unit * PLACES * 3, shards=2,
               max_pool=unit * 12, **options) as z:
        device = Device(z, size)
        for key, (what, place, inner, units, rest, kind) in enumerate(steps):
            at = min(place * unit + inner, size - 1)
            n = min(units * unit + rest or 1, size - at)
            units_touched = range(at // unit, (at + n - 1) // unit + 1)
            if what == "write":
                data = content_of(kind, key, n, unit)
                device.write(at, data)
                content[at : at + n] = data
                for one in units_touched:
                    stored[one] = True
            elif what == "read":
                assert device.read(at, n) == content[at : at + n]
            elif what == "trim":
                device.trim(at, n)
                for one in units_touched:
                    first, end = one * unit, min((one + 1) * unit, size)
                    if at <= first and end <= at + n:
                        content[first:end] = bytes(end - first)
                        stored[one] = False
            elif what in ("zero", "keep"):
                device.zero(at, n, allocate=what == "keep")
                content[at : at + n] = bytes(n)
            else:
                check_status(device, at, n, content)
        assert device.read(0, size) == content
        check_status(device, 0, size, content)
        # What is zero takes no room, unless zeroes were asked to be kept.
        if not any(what == "keep" for what, *_ in steps):
            full = sum(any(content[i * unit : (i + 1) * unit]) for i in range(len(stored)))
            assert len(z) == full
        z.check_valid("full")
        z.swap.check_valid()
        return z.counters()


def check_status(device, at, n, content):
    runs = device.status(at, n)
    assert [start for start, _, _ in runs] == [
        at + sum(length for _, length, _ in runs[:i]) for i in range(len(runs))]
    assert sum(length for _, length, _ in runs) == n
    for start, length, state in runs:
        assert state in (0, 2, 3)
        if state:
            assert not any(content[start : start + length]), "zeroes are said to be, and are not"
    assert all(a[2] != b[2] for a, b in zip(runs, runs[1:], strict=False))


@settings(max_examples=60, deadline=None)
@given(calls(4096))
def test_model_of_small_units(case):
    run_model(4096, *case)


@settings(max_examples=15, deadline=None)
@given(calls(65536))
def test_model_of_large_units(case):
    run_model(65536, *case)


@settings(max_examples=15, deadline=None)
@given(calls(16384))
def test_model_of_middling_units_in_class_pools(case):
    run_model(16384, *case, locking="class", pools=2, codec="zstd")


def test_the_model_writes_back():
    """The pool of the model is small enough that most of it goes to disk."""
    steps = [("write", unit, 5, 1, 0, "noise") for unit in range(PLACES)] * 2
    c = run_model(4096, PLACES * 4096, steps)
    assert c["zswpwb"] > 20
    assert c["swpin_disk"] > 20


# -- limits ---------------------------------------------------------------------------------------
def test_sizes_are_checked():
    with Zswap(max_pool="1M") as z:
        for bad in (0, -1, (1 << 44) + 1):
            with pytest.raises(UsageError, match="choose 1 to"):
                Device(z, bad)
        device = Device(z, 10_000)
        for offset, n in ((0, 10_001), (9_999, 2), (-1, 2), (0, 0), (1 << 70, 1)):
            with pytest.raises((UsageError, OverflowError)):
                device.read(offset, n)
            with pytest.raises((UsageError, OverflowError)):
                device.trim(offset, n)
    with pytest.raises(ClosedError):
        device.read(0, 1)
    with pytest.raises(ClosedError):
        Device(z, 1)


def full_device(z, device):
    """Write incompressible units until there is no room: those that are in."""
    held = {}
    with pytest.raises(MemoryLimitError, match="raise memory_max"):
        for unit in range(1000):
            device.write(unit * UNIT, noise(unit))
            held[unit] = noise(unit)
    return held


@pytest.mark.parametrize("swap", [None, "128K"])
def test_no_room_loses_nothing(swap):
    with Zswap(max_pool="128K", swap=swap, shrinker_thread=False) as z:
        device = Device(z, 1000 * UNIT)
        held = full_device(z, device)
        assert len(held) >= 28
        assert device.read(len(held) * UNIT, UNIT) == bytes(UNIT)  # the one that failed
        # Parts and wholes that do not fit leave each unit as it was.
        failed = 0
        for unit in held:
            try:
                device.write(unit * UNIT + 8, noise(unit + 5000, 100))
                held[unit] = held[unit][:8] + noise(unit + 5000, 100) + held[unit][108:]
            except MemoryLimitError:
                failed += 1
            try:
                device.write(unit * UNIT, noise(unit + 6000))
                held[unit] = noise(unit + 6000)
            except MemoryLimitError:
                failed += 1
        assert failed
        for unit, content in held.items():
            assert device.read(unit * UNIT, UNIT) == content
        # A trim makes room again.
        device.trim(0, 10 * UNIT)
        device.write(3, b"fits")
        assert device.read(0, 8) == b"\0\0\0fits\0"
        z.check_valid("full")


def test_a_write_of_several_units_fails_at_the_first_that_does_not_fit():
    with Zswap(max_pool="128K", shrinker_thread=False) as z:
        device = Device(z, 1000 * UNIT)
        with pytest.raises(MemoryLimitError):
            device.write(0, b"".join(noise(i) for i in range(100)))
        n = len(z)
        assert 0 < n < 33
        assert device.read(0, 100 * UNIT) == b"".join(noise(i) for i in range(n)) + bytes(
            (100 - n) * UNIT)


@pytest.mark.parametrize("fault", [Fault("read", "error"), Fault("read", "flip")])
def test_what_cannot_be_read_is_an_error_and_not_zeroes(fault):
    with Zswap(max_pool="1M", swap="1M", shrinker_thread=False) as z:
        device = Device(z, 10 * UNIT)
        device.write(0, text(0) + text(1))
        z.shrink("1M")
        with FaultPlan([fault]).installed(z.swap):
            with pytest.raises(SwapFileError) as caught:
                device.read(5, 10)
            assert caught.value.errno == errno.EIO
            with pytest.raises(SwapFileError):  # the rest of the unit is needed, and cannot be had
                device.write(5, b"x")
            with pytest.raises(SwapFileError):
                device.zero(5, 1)
            device.write(UNIT, noise(7))  # of a whole unit nothing is needed
            device.trim(5 * UNIT, UNIT)
        assert device.read(0, 2 * UNIT) == text(0) + noise(7)


def test_a_failing_codec_loses_nothing(monkeypatch):
    monkeypatch.setattr("sys.unraisablehook", lambda report: None)

    class Moody:
        name, fails = "moody", False

        def compress(self, data):
            if self.fails:
                raise ValueError
            return bytes(data[:2000])

        def decompress(self, data, size):
            return bytes(data) + bytes(size - len(data))

    moody = Moody()
    with Zswap(max_pool="1M", codec=PythonCodec(moody), shrinker_thread=False) as z:
        device = Device(z, 10 * UNIT)
        device.write(0, sized(0, 0.3))
        moody.fails = True
        for offset, data in ((0, sized(1, 0.3)), (7, b"part")):
            with pytest.raises(SwapFileError):
                device.write(offset, data)
        assert device.read(0, UNIT) == sized(0, 0.3)


# -- records --------------------------------------------------------------------------------------
def rows(device):
    t = trace_of(device, "lz4", {"cpus": 2})
    assert (t.unit_bytes, t.size_bytes, t.codec, t.dropped) == (UNIT, 100 * UNIT, "lz4", 0)
    return list(zip(t.op.tolist(), t.slot.tolist(), t.nbytes.tolist(), strict=True))


def test_the_record_says_what_was_done():
    with Zswap(max_pool="1M", swap="1M", shrinker_thread=False) as z:
        device = Device(z, 100 * UNIT, record=True)
        device.read(0, UNIT)  # a hole: nothing was there to be loaded
        device.trim(0, UNIT)  # nor to be trimmed
        device.write(0, noise(0) + same(5) + bytes(UNIT))
        device.read(0, 3 * UNIT)
        device.write(9, b"x")
        device.zero(4 * UNIT, 9)
        device.trim(0, 2 * UNIT)
        device.read(0, UNIT)
        device.zero(7 * UNIT, UNIT, allocate=True)
        z.shrink("1M")
        assert rows(device) == [
            (STORE, 0, UNIT), (STORE, 1, 0), (STORE, 2, 0),
            (LOAD, 0, UNIT), (LOAD, 1, 0), (LOAD, 2, 0),
            (LOAD, 0, UNIT), (STORE, 0, UNIT),
            (TRIM, 0, 0), (TRIM, 1, 0), (STORE, 7, 0),
        ]


def test_the_record_has_sizes_as_stored():
    with Zswap(max_pool="1M", shrinker_thread=False) as z:
        device = Device(z, 100 * UNIT, record=True)
        for i in range(50):
            device.write(i * UNIT, text(i))
        sizes = [n for op, _, n in rows(device) if op == STORE]
        assert sum(sizes) == z.stats()["stored_bytes"]
        assert len(set(sizes)) > 5


def test_a_failed_store_is_not_in_the_record():
    with Zswap(max_pool="128K", shrinker_thread=False) as z:
        device = Device(z, 1000 * UNIT, record=True)
        held = full_device(z, device)
        assert len(trace_of(device, "lz4")) == len(held)


def test_a_long_record():
    """More than one chunk of a thread, and several threads, in the order of time."""
    with Zswap(max_pool="16M", shrinker_thread=False) as z:
        device = Device(z, 1000 * UNIT, record=True)
        device.write(0, b"".join(text(i % 7) for i in range(1000)))

        def body():
            for _ in range(40):
                device.read(0, 1000 * UNIT)

        crew = [threading.Thread(target=body) for _ in range(2)]
        for one in crew:
            one.start()
        for one in crew:
            one.join()
        t = trace_of(device, "lz4")
        assert len(t) == 81_000
        assert (t.op == LOAD).sum() == 80_000
        assert (t.time_ns[1:] >= t.time_ns[:-1]).all()
        assert len(set(t.thread.tolist())) == 81  # one for each call from Python


def test_nothing_is_recorded_unless_asked():
    with Zswap(max_pool="1M") as z:
        device = Device(z, UNIT)
        device.write(0, b"x")
        assert device.records() == ([], 0)
