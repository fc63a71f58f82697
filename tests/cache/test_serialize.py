"""Values as bytes and back: equal, of the same type, without a copy of what is large."""

import array
import collections
import datetime
import json
import marshal
import pickle
import types
import zlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp

from coldmem.cache.serialize import (
    KIND_ARRAY,
    KIND_BYTES,
    KIND_CUSTOM,
    KIND_PICKLE,
    KIND_TEXT,
    check_serializer,
    dump,
    load,
)
from coldmem.errors import UsageError

BIG = 100_000


def joined(parts):
    data = bytearray()
    for part in parts:
        assert type(part) in (bytes, bytearray, memoryview)
        view = memoryview(part)
        assert view.ndim == 1
        assert view.itemsize == 1
        assert view.c_contiguous
        assert len(part) == view.nbytes
        data += part
    return data


def again(value, serializer=None):
    kind, parts = dump(value, serializer)
    return load(kind, joined(parts), serializer)


def aligned(nbytes):
    """A bytearray's memory at a multiple of 64, as a view."""
    room = np.zeros(nbytes + 64, np.uint8)
    begin = -room.ctypes.data % 64
    return memoryview(room[begin : begin + nbytes])


def same_memory(array, buffer):
    return np.shares_memory(array, np.frombuffer(buffer, np.uint8))


# -- bytes -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("value", [
    b"", b"x", bytes(BIG), bytearray(b"abc"), bytearray(), memoryview(b"abc"), memoryview(b""),
    memoryview(np.arange(12.0).reshape(3, 4)), memoryview(np.zeros((3, 0))), memoryview(np.array(5)),
    memoryview(b"abcdef")[::2], memoryview(np.arange(12).reshape(3, 4).T),
    memoryview(array.array("d", [1])),
])
def test_bytes_like_values_come_back_as_bytes(value):
    kind, parts = dump(value)
    assert kind == KIND_BYTES
    assert len(parts) == 1
    found = load(kind, joined(parts))
    assert type(found) is bytes
    assert found == memoryview(value).tobytes()


@pytest.mark.parametrize(
    "value", [bytes(BIG), bytearray(BIG), memoryview(bytes(BIG)).cast("Q", (125, 100))])
def test_bytes_are_not_copied(value):
    [part] = dump(value)[1]
    assert same_memory(np.frombuffer(memoryview(value).cast("B"), np.uint8), part)


def test_bytes_that_are_loaded_from_bytes_are_not_copied():
    data = bytes(10)
    assert load(KIND_BYTES, data) is data


class Named(bytes):
    pass


def test_a_subclass_of_bytes_keeps_its_type():
    assert type(again(Named(b"abc"))) is Named


# -- pickle ----------------------------------------------------------------------------------------
Point = collections.namedtuple("Point", "x y")

PLAIN = [
    None, True, 0, 1 << 200, 1.5, "", "text", "\ud800", (), [], {}, {1: {2: [3]}}, {"a", "b"},
    frozenset([1]), Point(1, "two"), datetime.datetime(2020, 1, 2), collections.OrderedDict(a=1),
    array.array("d", range(500)),
    {"payload": bytes(BIG)}, [bytearray(BIG)], range(5), complex(1, 2), int, len,
]


@pytest.mark.parametrize("value", PLAIN, ids=lambda v: type(v).__name__)
def test_plain_objects(value):
    found = again(value)
    assert found == value
    assert type(found) is type(value)


def test_a_plain_object_is_its_pickle_and_no_more():
    kind, parts = dump({"a": 1})
    assert kind == KIND_PICKLE
    assert parts == [pickle.dumps({"a": 1}, 5)]


def arrays():
    rng = np.random.default_rng(0)
    yield "float64", rng.random(BIG)
    yield "2d", rng.random((100, 200))
    yield "fortran", np.asfortranarray(rng.random((100, 200)))
    yield "strided", rng.random((100, 200))[::2, ::3]
    yield "transposed", rng.random((50, 30, 20)).transpose(1, 0, 2)
    yield "reversed", rng.random(5000)[::-1]
    yield "empty", np.zeros(0)
    yield "empty_2d", np.zeros((0, 7), np.int32)
    yield "scalar_array", np.array(3.5)
    yield "scalar", np.float32(1.5)
    yield "small", np.arange(3)
    yield "bool", rng.random(5000) < 0.5
    yield "complex", rng.random(5000) + 1j
    yield "text", np.array(["ab", "c"] * 1000)
    yield "bytes", np.array([b"ab", b"c"] * 1000)
    yield "time", np.arange(5000).astype("datetime64[s]")
    yield "record", np.zeros(1000, [("a", "i4"), ("b", "f8", (3,))])
    yield "big_endian", np.arange(5000, dtype=">i4")
    yield "broadcast", np.broadcast_to(np.arange(1000.0), (50, 1000))
    yield "unaligned", np.frombuffer(bytes(8001), np.uint8)[1:].view("f8")


@pytest.mark.parametrize(("name", "value"), [*arrays()], ids=lambda v: v if isinstance(v, str) else "")
def test_arrays(name, value):
    found = again(value)
    assert type(found) is type(value)
    assert found.dtype == value.dtype
    np.testing.assert_array_equal(found, value)
    assert found.flags.f_contiguous == value.flags.f_contiguous or not value.flags.contiguous


def test_object_arrays():
    value = np.array([1, "two", None, np.zeros(BIG)], object)
    found = again(value)
    assert found.dtype == object
    assert list(found[:3]) == [1, "two", None]
    np.testing.assert_array_equal(found[3], value[3])


@given(hnp.arrays(
    hnp.array_dtypes() | hnp.scalar_dtypes(),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=9)))
def test_arrays_of_any_kind(value):
    pickled = pickle.loads(pickle.dumps(value, 5))
    found = again([value, value.T])
    for one, other in zip(found, (pickled, pickled.T), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_payload_of_an_array_is_a_part_and_not_copied(order):
    value = np.asarray(np.random.default_rng(0).random((100, 1000)), order=order)
    parts = dump({"name": "a", "data": value})[1]
    big = [part for part in parts if len(part) == value.nbytes]
    assert len(big) == 1
    assert same_memory(value, big[0])
    assert sum(map(len, parts)) - value.nbytes < 1000


@pytest.mark.parametrize("view", [True, False])
def test_a_loaded_array_is_a_view_of_the_data(view):
    value = {"a": np.arange(BIG), "b": np.ones(999, np.uint8), "c": np.arange(5000.0),
             "d": np.arange(1025) == 3}
    kind, parts = dump(value)
    raw = joined(parts)
    data = aligned(len(raw)) if view else bytearray(len(raw))
    data[:] = raw
    found = load(kind, data)
    base = np.frombuffer(data, np.uint8).ctypes.data
    for name in "acd":
        assert same_memory(found[name], data)
        assert (found[name].ctypes.data - base) % 64 == 0
        assert found[name].flags.aligned
    assert found["b"].flags.owndata or not same_memory(found["b"], data)  # small: in the pickle
    for name in value:
        np.testing.assert_array_equal(found[name], value[name])


@pytest.mark.parametrize("n", [10, BIG])
def test_a_loaded_array_is_as_writable_as_its_original(n):
    fixed = np.arange(n)
    fixed.flags.writeable = False
    found, found_fixed = again([np.arange(n), fixed])
    found[0] = 7
    assert found[0] == 7
    assert found[1] == 1
    with pytest.raises(ValueError, match="read-only"):
        found_fixed[0] = 7


def test_arrays_that_are_one_stay_one():
    one = np.arange(BIG)
    kind, parts = dump([one, one])
    assert sum(map(len, parts)) < 2 * one.nbytes
    first, second = load(kind, joined(parts))
    assert first is second


@pytest.mark.parametrize(
    "lengths",
    [(1024,), (1023,), (1088, 1024), (1025, 1087, 1089), (64 * 1000,) * 3, (2000,) * 50])
def test_buffers_begin_at_multiples_of_64(lengths):
    value = [np.full(n, i, np.uint8) for i, n in enumerate(lengths)]
    kind, parts = dump(value)
    at = 0
    for part in parts:
        if any(np.shares_memory(one, np.frombuffer(part, np.uint8)) for one in value):
            assert at % 64 == 0
        at += len(part)
    for found, original in zip(load(kind, joined(parts)), value, strict=True):
        np.testing.assert_array_equal(found, original)


def frame():
    return pd.DataFrame({
        "n": np.arange(3000), "x": np.random.default_rng(0).random(3000),
        "text": ["a", None, "ccc"] * 1000, "when": pd.date_range("2020", periods=3000, freq="h"),
        "kind": pd.Categorical(["p", "q", "p"] * 1000),
        "whole": pd.array([1, None, 3] * 1000, "Int64"), "object": [(1,), {"a": 2}, None] * 1000,
    })


@pytest.mark.parametrize("make", [
    frame, lambda: frame()["x"], lambda: frame().set_index(["n", "kind"]), lambda: frame().iloc[::7],
    pd.DataFrame,
    lambda: pd.Series(range(5000), dtype="int64[pyarrow]"), lambda: pd.Index(range(2000)),
])
def test_pandas(make):
    value = make()
    found = again(value)
    tester = {pd.Series: pd.testing.assert_series_equal, pd.DataFrame: pd.testing.assert_frame_equal}
    tester.get(type(value), pd.testing.assert_index_equal)(found, value)


def test_a_loaded_frame_can_be_worked_on():
    found = again(frame())
    found["x"] += 1
    found.loc[5, "text"] = "new"
    assert found["text"][5] == "new"


def table():
    return pa.table({
        "n": pa.array(range(5000)), "text": pa.array(["a", None, "long text"] * 1666 + ["b", "c"]),
        "list": pa.array([[1, 2], None, []] * 1666 + [[], []]), "bool": pa.array([True, None] * 2500),
        "kind": pa.array(["p", "q"] * 2500).dictionary_encode(),
        "record": pa.array([{"a": 1, "b": "x"}] * 5000),
    })


@pytest.mark.parametrize("make", [
    table, lambda: table().to_batches()[0], lambda: table()["text"], lambda: table().slice(100, 50),
    lambda: pa.concat_tables([table(), table()]), lambda: pa.array(range(9000)), lambda: table().schema,
    lambda: table().slice(0, 0), lambda: pa.table({"e": pa.array([], pa.string())}),
])
def test_arrow(make):
    value = make()
    found = again(value)
    assert type(found) is type(value)
    assert found.equals(value)
    if hasattr(found, "validate"):
        found.validate(full=True)


def test_the_buffers_of_an_arrow_table_are_not_copied():
    value = pa.table({"x": np.random.default_rng(0).random(BIG)})
    buffer = value["x"].chunk(0).buffers()[1]
    kind, parts = dump(value)
    assert any(same_memory(np.frombuffer(buffer, np.uint8), part) for part in parts)
    data = joined(parts)
    found = load(kind, data)
    assert same_memory(np.frombuffer(found["x"].chunk(0).buffers()[1], np.uint8), data)


def test_a_view_that_outlives_its_data():
    found = again([np.arange(BIG), np.arange(BIG)])[1]
    assert found.sum() == BIG * (BIG - 1) // 2


# -- what cannot be kept ---------------------------------------------------------------------------
class Stubborn:
    def __reduce__(self):
        raise RuntimeError("I will not")


@pytest.mark.parametrize(("value", "text"), [
    (lambda: 1, "type function"), ((i for i in "a"), "type generator"), (Stubborn(), "I will not"),
    ({"deep": [memoryview(b"x")]}, "memoryview"), (types, "type module"),
])
def test_what_cannot_be_pickled(value, text):
    with pytest.raises(UsageError, match=text) as caught:
        dump(value)
    assert "serializer=" in str(caught.value)
    assert caught.value.__cause__ is not None


class Full:
    def __reduce__(self):
        raise MemoryError


def test_no_memory_is_not_the_value_s_fault():
    with pytest.raises(MemoryError):
        dump(Full())


class Passing:
    """Made by a class that is gone when it is loaded."""


def test_a_value_whose_class_is_gone(monkeypatch):
    kind, parts = dump(Passing())
    monkeypatch.delitem(globals(), "Passing")
    with pytest.raises(UsageError, match=r"unpickled.*Passing.*Import or define"):
        load(kind, joined(parts))


def test_a_layout_of_the_future():
    kind, parts = dump([np.zeros(BIG), np.zeros(BIG)])
    data = joined(parts)
    data[3] += 1
    with pytest.raises(UsageError, match="layout"):
        load(kind, data)


# -- arrays of numbers, without a pickle -----------------------------------------------------------
def check_array(value, kind):
    found_kind, parts = dump(value)
    assert found_kind == kind
    found = load(found_kind, joined(parts))
    assert type(found) is np.ndarray
    assert found.dtype == value.dtype
    assert found.dtype.str == value.dtype.str, "the byte order"
    assert found.shape == value.shape
    assert found.tobytes() == value.tobytes()
    assert found.flags.writeable == value.flags.writeable
    return found


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("code", [*"?bBhHiIqQefdgFDG", "M8[ns]", "M8[25s]", "m8[D]"])
def test_arrays_of_all_numbers(code, order):
    dtype = np.dtype(code).newbyteorder(order)
    value = np.arange(24).astype(dtype).reshape(2, 3, 4)
    check_array(value, KIND_ARRAY)
    check_array(value.reshape(24)[:1].reshape(()), KIND_ARRAY)


@pytest.mark.parametrize("writable", [False, True])
def test_arrays_of_all_layouts(writable):
    base = np.arange(60.0).reshape(3, 4, 5)
    rows = [(base.copy(), KIND_ARRAY), (np.asfortranarray(base), KIND_ARRAY),
            (np.asfortranarray(base[:, :1]), KIND_ARRAY), (np.array(7), KIND_ARRAY),
            (base[::2], KIND_PICKLE), (base.transpose(1, 0, 2), KIND_PICKLE), (base[::-1], KIND_PICKLE),
            (np.zeros((3, 0, 2)), KIND_PICKLE), (np.broadcast_to(np.float32(1), (4, 4)), KIND_PICKLE)]
    for value, kind in rows:
        if value.flags.owndata:
            value.flags.writeable = writable
        if kind == KIND_ARRAY:
            found = check_array(value, kind)
            assert found.flags.f_contiguous == value.flags.f_contiguous
            assert found.flags.c_contiguous == value.flags.c_contiguous
        else:
            found = again(value)
            np.testing.assert_array_equal(found, value)
            assert (found.shape, found.dtype) == (value.shape, value.dtype)


@pytest.mark.parametrize("value", [
    np.ma.array([1, 2], mask=[0, 1]), np.array(["a", "b"]), np.array([b"a"]), np.array([{}, None]),
    np.zeros(3, [("a", "i4"), ("b", "f8")]), np.arange(4).view(np.recarray),
])
def test_other_arrays_go_through_pickle(value):
    kind, parts = dump(value)
    assert kind == KIND_PICKLE
    found = load(kind, joined(parts))
    assert type(found) is type(value) and found.dtype == value.dtype
    assert found.tolist() == value.tolist()


# -- serializers -----------------------------------------------------------------------------------
class Halves:
    """Several buffers, one of them not contiguous and one not of bytes."""

    def dumps(self, value):
        return [b"", memoryview(value)[::2], np.arange(3, dtype="u4"), bytearray(value[1::2])]

    def loads(self, data):
        assert type(data) is memoryview
        out = bytearray(len(data) - 12)
        head = len(out[::2])
        out[::2] = data[:head]
        out[1::2] = data[head + 12:]
        return Named(out)


@pytest.mark.parametrize(("serializer", "value", "kind"), [
    (json, {"a": [1, None, "ä\ud800"]}, KIND_TEXT),
    (pickle, {"a": {1, 2}}, KIND_CUSTOM),
    (marshal, [1, (2,), b"x"], KIND_CUSTOM),
    ((lambda text: zlib.compress(text.encode()), lambda data: zlib.decompress(data).decode()), "x" * 50,
     KIND_CUSTOM),
    ((lambda n: array.array("q", [n]), lambda data: data.cast("q")[0]), 1 << 40, KIND_CUSTOM),
    ((lambda text: text, lambda text: text), "\ud800 and \N{GREEK SMALL LETTER ALPHA}", KIND_TEXT),
    (Halves(), Named(b"abcdefg"), KIND_CUSTOM),
    ((lambda value: (), lambda data: len(data)), 0, KIND_CUSTOM),
])
def test_serializers(serializer, value, kind):
    assert dump(value, serializer)[0] == kind
    assert again(value, serializer) == value
    assert again(value, check_serializer(serializer)) == value


def test_a_serializer_s_buffers_are_not_copied():
    value = np.arange(BIG)
    [part] = dump(value, (lambda v: v, bytes))[1]
    assert same_memory(value, part)


def test_bytes_do_not_go_through_a_serializer():
    assert dump(b"abc", json) == (KIND_BYTES, [b"abc"])


@pytest.mark.parametrize("made", [5, None, [5], {"a": b"x"}, [b"x", "text"]])
def test_a_serializer_that_gives_something_else(made):
    with pytest.raises(UsageError, match=f"gave {type(made).__name__}"):
        dump(1, (lambda value: made, bytes))


def test_a_serializer_that_fails():
    with pytest.raises(UsageError, match=r"dumps failed on a value of type set.*JSON") as caught:
        dump({1}, json)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(UsageError, match="loads failed"):
        load(KIND_TEXT, bytearray(b"{"), json)


@pytest.mark.parametrize("kind", [KIND_CUSTOM, KIND_TEXT])
def test_a_serializer_that_is_not_there_any_more(kind):
    with pytest.raises(UsageError, match="serializer="):
        load(kind, bytearray(b"1"))


@pytest.mark.parametrize("bad", [5, "json", (json.dumps,), (json.dumps, None), object(), np])
def test_what_is_no_serializer(bad):
    with pytest.raises(UsageError, match="dumps and loads"):
        check_serializer(bad)


def test_no_serializer():
    assert check_serializer(None) is None
