"""A trace comes back from its file as it was, and a damaged one is refused."""

import json
import os
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.nbd.trace import LOAD, STORE, TRIM, Trace

UNIT = 4096
FIELDS = ("time_ns", "op", "slot", "nbytes", "thread")


def trace(rows, slots=1 << 20, **more):
    columns = list(zip(*rows, strict=True)) or [()] * 5
    kinds = (np.uint64, np.uint8, np.uint32, np.uint32, np.uint16)
    arrays = {n: np.array(c, k) for n, c, k in zip(FIELDS, columns, kinds, strict=True)}
    return Trace(**arrays, unit_bytes=UNIT, size_bytes=slots * UNIT, codec="lz4", **more)


def assert_same(a, b):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
        assert getattr(a, name).dtype == getattr(b, name).dtype
    assert (a.unit_bytes, a.size_bytes, a.codec, a.machine, a.dropped) == (
        b.unit_bytes, b.size_bytes, b.codec, b.machine, b.dropped)


operations = st.lists(st.tuples(
    st.integers(0, 1 << 40), st.sampled_from([STORE, LOAD, TRIM]),
    st.one_of(st.integers(0, 5), st.integers(0, (1 << 32) - 1)),
    st.integers(0, UNIT), st.integers(0, (1 << 16) - 1)), max_size=60)


@settings(max_examples=60, deadline=None)
@given(operations)
def test_what_was_saved_is_loaded(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("trace") / "t.npz"
    rows = [(t, op, slot, 0 if op == TRIM else n, thread) for t, op, slot, n, thread in sorted(rows)]
    made = trace(rows, 1 << 32, machine={"cpus": 2, "kernel": "x"}, dropped=3)
    made.save(path)
    assert_same(Trace.load(path), made)
    assert os.listdir(path.parent) == ["t.npz"]


def test_times_are_rounded_down_to_the_tick(tmp_path):
    made = trace([(1_999, STORE, 0, 5, 0), (2_000, LOAD, 0, 5, 1), (7_001, TRIM, 0, 0, 2)])
    made.save(tmp_path / "t.npz", tick_ns=1000)
    assert Trace.load(tmp_path / "t.npz").time_ns.tolist() == [1_000, 2_000, 7_000]


def test_head():
    made = trace([(i, STORE, i, 7, 0) for i in range(5)])
    assert_same(made.head(2), trace([(i, STORE, i, 7, 0) for i in range(2)]))
    assert_same(made.head(99), made)
    assert len(made.head(0)) == 0
    with pytest.raises(UsageError, match="-1"):
        made.head(-1)


def test_loads_cost_little(tmp_path):
    """A load brings what was stored: its bytes are foreseen, and so take next to no room."""
    rng = np.random.default_rng(1)
    stores = [(i, STORE, i, int(n), 0) for i, n in enumerate(rng.integers(1, UNIT, 20_000))]
    loads = [(20_000 + i, LOAD, i, n, 0) for _, _, i, n, _ in stores]
    trace(stores).save(tmp_path / "stores.npz")
    trace(stores + loads).save(tmp_path / "both.npz")
    extra = (tmp_path / "both.npz").stat().st_size - (tmp_path / "stores.npz").stat().st_size
    assert extra < 2_000


@pytest.mark.parametrize(("row", "what"), [
    ((5, 3, 0, 0, 0), "no such operation"),
    ((5, STORE, 10, 0, 0), "ends at slot 10"),
    ((5, STORE, 0, UNIT + 1, 0), "more than"),
    ((5, TRIM, 0, 1, 0), "a trim that has bytes"),
    ((3, STORE, 0, 0, 0), "earlier"),
])
def test_a_contradiction_is_named(row, what):
    with pytest.raises(UsageError, match=f"operation 1: .*{what}"):
        trace([(4, STORE, 0, 9, 0), row], slots=10)


def test_arrays_must_fit_each_other():
    good = trace([(1, STORE, 0, 9, 0)])
    for name in FIELDS:
        parts = {n: getattr(good, n) for n in FIELDS}
        with pytest.raises(UsageError, match=name):
            Trace(**{**parts, name: parts[name].astype(np.float64)}, unit_bytes=UNIT,
                  size_bytes=UNIT, codec="lz4")
    with pytest.raises(UsageError, match="has 2 slot"):
        Trace(**{**parts, "slot": np.zeros(2, np.uint32)}, unit_bytes=UNIT, size_bytes=UNIT,
              codec="lz4")


# -- files that are not traces --------------------------------------------------------------------
@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "t.npz"
    trace([(i, STORE, i % 50, i % 4000, 0) for i in range(500)]).save(path)
    return path


def test_a_missing_file_is_an_environment_failure(tmp_path):
    with pytest.raises(EnvironmentFailure, match=r"nothing\.npz.*No such file"):
        Trace.load(tmp_path / "nothing.npz")
    with pytest.raises(EnvironmentFailure, match="cannot write"):
        trace([]).save(tmp_path / "no" / "t.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 and no more"])
def test_another_file_is_refused(tmp_path, content):
    path = tmp_path / "t.npz"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"t\.npz.* is not a"):
        Trace.load(path)


def test_a_plain_array_is_refused(tmp_path):
    with open(tmp_path / "t.npz", "wb") as file:
        np.save(file, np.zeros(4))
    with pytest.raises(UsageError, match="not a trace"):
        Trace.load(tmp_path / "t.npz")


def test_a_cut_file_is_refused(saved):
    whole = saved.read_bytes()
    for keep in (10, len(whole) // 2, len(whole) - 30):
        saved.write_bytes(whole[:keep])
        with pytest.raises(UsageError):
            Trace.load(saved)


def test_flipped_bits_are_refused(saved):
    """Those in the data, which the archive's checksums cover."""
    whole = saved.read_bytes()
    for at in range(200, len(whole) - 1200, 37):
        saved.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1:])
        try:
            found = Trace.load(saved)
        except UsageError:
            continue
        saved.write_bytes(whole)
        assert_same(found, Trace.load(saved))  # it was in a field that says nothing about the data


def rewritten(path, change):
    """The same file with another description."""
    with np.load(path) as file:
        parts = {name: file[name] for name in file}
    about = json.loads(bytes(parts["about"]))
    change(about, parts)
    parts["about"] = np.frombuffer(json.dumps(about).encode(), np.uint8)
    np.savez_compressed(path, **parts)


@pytest.mark.parametrize(("change", "what"), [
    (lambda a, p: a.update(version=2), "version 2"),
    (lambda a, p: a.update(operations=499), "shape"),
    (lambda a, p: a.pop("unit_bytes"), "unit_bytes"),
    (lambda a, p: a.update(unit_bytes="many"), "not a whole trace"),
    (lambda a, p: a.update(unit_bytes=0), "above 0"),
    (lambda a, p: a.update(size_bytes=UNIT), "ends at slot 1"),
    (lambda a, p: p.pop("slot"), "slot"),
    (lambda a, p: p.update(slot=p["slot"] | 0x80), "out of range"),
])
def test_a_contradictory_description_is_refused(saved, change, what):
    rewritten(saved, change)
    with pytest.raises(UsageError, match=what):
        Trace.load(saved)


def test_anybody_can_open_it(saved):
    assert "about.npy" in zipfile.ZipFile(saved).namelist()
