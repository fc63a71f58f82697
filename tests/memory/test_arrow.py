"""Arrow data in a Memory: equal to what was copied, whatever its type, and all of it there."""

from __future__ import annotations

import datetime
import decimal
import gc
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from libraries import evicting

from coldmem import Memory
from coldmem.errors import MemoryLimitError, MissingLibraryError, UsageError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed: the 'test' extra has it")
import pyarrow.compute as pc  # noqa: E402

Make = Callable[..., Memory]
MIB = 1 << 20
N = 30_000
RNG = np.random.default_rng(31)
INTS = RNG.integers(-1000, 1000, N)
WORDS = [None if n % 11 == 0 else f"word {n % 700}" * (n % 4) for n in range(N)]
HOLES = pa.array([None if n % 5 == 0 else int(n) for n in INTS])


class Point(pa.ExtensionType):  # type: ignore[misc]
    """A type that pyarrow is not told of."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.float64(), 2), "coldmem.tests.point")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage: Any, serialized: bytes) -> Point:
        return cls()


def points() -> Any:
    flat = pa.array(INTS[: N // 2 * 2].astype("f8"))
    return pa.ExtensionArray.from_storage(Point(), pa.FixedSizeListArray.from_arrays(flat, 2))


MAKERS: dict[str, Callable[[], Any]] = {
    "ints": lambda: pa.array(INTS),
    "small": lambda: pa.array([1, 2, 3], pa.int8()),
    "empty": lambda: pa.array([], pa.string()),
    "no_values": lambda: pa.nulls(N),
    "holes": lambda: HOLES,
    "bools": lambda: pc.greater(HOLES, 0),
    "floats": lambda: pa.array(INTS / 7, pa.float32()),
    "halves": lambda: pa.array((INTS / 8).astype("f2")),
    "strings": lambda: pa.array(WORDS),
    "large_strings": lambda: pa.array(WORDS, pa.large_string()),
    "string_views": lambda: pa.array(WORDS, pa.string_view()),
    "binary": lambda: pa.array([w and w.encode() for w in WORDS], pa.binary()),
    "fixed_binary": lambda: pa.array([b"%06d" % (n % 999) for n in range(N)], pa.binary(6)),
    "decimals": lambda: pa.array(
        [decimal.Decimal(int(n)) / 4 for n in INTS[:5000]], pa.decimal128(12, 2)),
    "dates": lambda: pa.array([datetime.date(2000, 1, 1 + n % 28) for n in range(N)]),
    "times": lambda: pa.array(INTS.astype("M8[ms]")).cast(pa.timestamp("ms", "Europe/Berlin")),
    "lists": lambda: pa.array([None if n % 9 == 0 else list(range(n % 6)) for n in range(N)]),
    "large_lists": lambda: pa.array([[w, None] for w in WORDS[:5000]], pa.large_list(pa.string())),
    "fixed_lists": lambda: pa.FixedSizeListArray.from_arrays(HOLES, 3),
    "structs": lambda: pa.array([
        None if n % 13 == 0 else {"a": n, "b": {"c": WORDS[n]}} for n in range(N)]),
    "maps": lambda: pa.array(
        [[("k", n), ("l", None)] for n in range(9000)], pa.map_(pa.string(), pa.int64())),
    "dictionary": lambda: pa.array(WORDS).dictionary_encode(),
    "dictionary_in_list": lambda: pa.array([["a", "b"], None, ["b"]] * 3000, pa.list_(
        pa.dictionary(pa.int8(), pa.string()))),
    "union": lambda: pa.UnionArray.from_sparse(
        pa.array(np.arange(N) % 2, pa.int8()), [HOLES, pa.array(WORDS)]),
    "dense_union": lambda: pa.UnionArray.from_dense(
        pa.array([0, 1] * 999, pa.int8()), pa.array(range(1998), pa.int32()), [HOLES, pa.array(WORDS)]),
    "run_ends": lambda: pc.run_end_encode(pa.array(np.arange(N) // 50)),
    "extension": points,
}


def buffers(data: Any) -> Iterator[Any]:
    if isinstance(data, pa.Table | pa.RecordBatch | pa.ChunkedArray):
        for part in data.chunks if isinstance(data, pa.ChunkedArray) else data.columns:
            yield from buffers(part)
        return
    yield from (buffer for buffer in data.buffers() if buffer is not None and buffer.size)
    if pa.types.is_dictionary(data.type):
        yield from buffers(data.dictionary)


def all_there(memory: Memory, data: Any) -> int:
    """Every buffer lies in the Memory; their bytes."""
    found = list(buffers(data))
    assert all(memory.owns(buffer) for buffer in found)
    return sum(buffer.size for buffer in found)


def equal(got: Any, want: Any) -> None:
    assert type(got) is type(want)
    if isinstance(want, pa.Table | pa.RecordBatch):
        assert got.schema.equals(want.schema, check_metadata=True)
    else:
        assert got.type == want.type
    assert got.equals(want)
    got.validate(full=True)


@pytest.mark.parametrize("name", MAKERS)
def test_arrays(make_memory: Make, name: str) -> None:
    want = MAKERS[name]()
    memory = make_memory("8M", "64M")
    with evicting(memory) as out:
        for data in (want, want[len(want) // 3 : -5], want[3:3], pa.chunked_array([want[:7], want[9:]]),
                     pa.chunked_array([want[100:]]), pa.chunked_array([], want.type)):
            got = memory.arrow(data)
            out.now()
            equal(got, data)
            all_there(memory, got)
        mine = memory.arrow(want)
        assert mine.to_pylist() == want.to_pylist()
        if len(want) > 100 and name != "no_values":
            assert all_there(memory, mine) > 0 and out.left() > 3
        del got, mine
    memory.check_valid("full")


def table() -> Any:
    arrays = {name: MAKERS[name]() for name in (
        "ints", "holes", "strings", "dictionary", "structs", "lists", "run_ends")}
    made = pa.table(arrays).replace_schema_metadata({"about": "a test"})
    return pa.concat_tables([made.slice(7, 9999), made.slice(0, 0), made.slice(20_000)])


def test_tables(make_memory: Make) -> None:
    want = table()
    memory = make_memory("8M", "64M")
    with evicting(memory) as out:
        got = memory.arrow(want)
        assert memory.stats()["arrays"] == 1 + want.num_columns, "one for each column"
        out.now()
        equal(got, want)
        assert [c.num_chunks for c in got.columns] == [c.num_chunks for c in want.columns]
        assert all_there(memory, got) > MIB
        got = got.select(["ints"])
        gc.collect()
        assert memory.stats()["arrays"] == 2, "a column that is dropped gives its memory back"
        batch = want.to_batches()[0]
        equal(memory.arrow(batch), batch)
        for nothing in (want.select([]), want.slice(0, 0), batch.slice(5, 0), pa.table({})):
            equal(memory.arrow(nothing), nothing)
        assert out.left() > 100
        del got
    memory.check_valid("full")


def test_what_arrow_computes_from_it(make_memory: Make) -> None:
    """Kernels and files, in Arrow's own threads, on what is away."""
    want = table().select(["ints", "holes", "strings"])
    memory = make_memory("8M", "64M")
    jobs: list[Callable[[Any], Any]] = [
        lambda t: t.sort_by([("ints", "ascending"), ("strings", "descending")]),
        lambda t: t.filter(pc.greater(t["ints"], 100)),
        lambda t: t.group_by("ints").aggregate([("holes", "sum"), ("strings", "count")]).sort_by("ints"),
        lambda t: t.join(t.group_by("ints").aggregate([("holes", "max")]), "ints").sort_by(
            [("ints", "ascending"), ("holes", "ascending"), ("strings", "ascending")]),
        lambda t: pc.utf8_upper(t["strings"]),
        lambda t: pc.value_counts(t["holes"]),
        lambda t: t.combine_chunks().take(pa.array([5, 3, None, 9])),
    ]
    with evicting(memory) as out:
        got = memory.arrow(want)
        for job in jobs:
            out.now()
            equal(job(got), job(want))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, got.schema) as writer:
            writer.write_table(got)
        equal(pa.ipc.open_file(sink.getvalue()).read_all(), want)
        assert out.left() > 500
        del got


def test_pandas_and_numpy_see_the_same_memory(make_memory: Make) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed: the 'test' extra has it")
    memory = make_memory("8M", "64M")
    want = pa.table({"ints": INTS, "floats": INTS / 3})
    with evicting(memory) as out:
        got = memory.arrow(want)
        one = got["ints"].chunk(0).to_numpy(zero_copy_only=True)
        assert memory.owns(one) and np.array_equal(one, INTS)
        frame = got.to_pandas(split_blocks=True)
        assert memory.owns(frame["floats"].to_numpy())
        out.now()
        assert frame.equals(want.to_pandas())
        same = memory.arrow(frame)  # by Arrow's C stream
        assert all_there(memory, same) >= 16 * N and same["ints"].equals(want["ints"])
        del one, frame, same, got


def test_hints_and_pins_take_its_buffers(make_memory: Make) -> None:
    memory = make_memory("16M", "64M")
    got = memory.arrow(pa.array(RNG.integers(0, 1 << 60, MIB // 8)))
    buffer = got.buffers()[1]
    memory.evict(buffer)
    assert memory.prefetch(buffer) > MIB // 2
    memory.madvise(buffer, "sequential")
    with memory.pinned(buffer):
        assert memory.stats()["pinned_bytes"] >= MIB
        assert memory.evict(buffer) == 0
    del got, buffer


def test_what_is_no_arrow_data(make_memory: Make) -> None:
    memory = make_memory("8M", 0)
    for data in (5, "text", [1, 2], {"a": [1]}, None):
        with pytest.raises(UsageError, match="is no Arrow data"):
            memory.arrow(data)
    with pytest.raises(MemoryLimitError, match="memory_max"):
        memory.arrow(pa.array(np.zeros(4 * MIB)))
    assert memory.stats()["arrays"] == 0
    with pytest.raises(UsageError, match="extension"):
        memory.arrow(pa.StructArray.from_arrays([points()], ["p"]))
    gc.collect()


def test_without_pyarrow() -> None:
    """It is not imported before it is needed, and what is missing is said."""
    done = subprocess.run([sys.executable, "-c", (
        "import sys, coldmem; coldmem.Memory; assert 'pyarrow' not in sys.modules\n"
        "sys.modules['pyarrow'] = None\n"
        "from coldmem.memory.arrow import copy_arrow\n"
        "try:\n copy_arrow(None, None)\nexcept coldmem.MissingLibraryError as error:\n print(error)\n"
    )], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "pip install pyarrow" in done.stdout
    assert issubclass(MissingLibraryError, ImportError)


# -- without a copy: buffers that Arrow builds upon -------------------------------------------------
def test_py_buffer_and_from_buffers(make_memory: Make) -> None:
    memory = make_memory("8M", "64M")
    room = pa.py_buffer(memory.allocate(8 * N))
    assert room.is_mutable and room.size == 8 * N and memory.owns(room)
    np.frombuffer(room, "i8")[:] = INTS
    with evicting(memory) as out:
        array = pa.Array.from_buffers(pa.int64(), N, [None, room])
        del room
        out.now()
        assert array.equals(pa.array(INTS)) and pc.sum(array).as_py() == int(INTS.sum())
        text = "".join(f"{n:05}" for n in range(N)).encode()
        values, offsets = pa.py_buffer(memory.allocate(5 * N)), pa.py_buffer(memory.allocate(4 * N + 4))
        np.frombuffer(values, "u1")[:] = np.frombuffer(text, "u1")
        np.frombuffer(offsets, "i4")[:] = np.arange(N + 1) * 5
        strings = pa.Array.from_buffers(pa.string(), N, [None, offsets, values])
        strings.validate(full=True)
        out.now()
        assert strings[777].as_py() == "00777"
        assert strings.equals(pa.array([f"{n:05}" for n in range(N)]))
        view = array[5:9]
        del values, offsets, strings, array
        gc.collect()
        assert memory.stats()["arrays"] == 2
        out.now()
        assert view.to_pylist() == INTS[5:9].tolist()
        assert out.left() > 50
        del view
    gc.collect()
    assert memory.stats()["arrays"] == 0


def test_a_stream_is_read_into_it(make_memory: Make) -> None:
    memory = make_memory("8M", "64M")
    want = table()
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, want.schema) as writer:
        writer.write_table(want)
    data = sink.getvalue()
    with evicting(memory) as out:
        room = memory.allocate(data.size)
        out.now()
        assert pa.BufferReader(data).readinto(room) == data.size
        out.now()
        got = pa.ipc.open_stream(pa.py_buffer(room)).read_all()
        equal(got, want)
        all_there(memory, got)
        del room, got
