"""Copies of Arrow data whose buffers lie in a Memory, for `Memory.arrow`. pyarrow is optional.

A column is written as an Arrow stream into one extent, and read from there without a copy: Arrow itself
thus sees to nested types, dictionaries, slices and missing values. Each column has its own extent, so
dropping a column of a copied table gives its memory back.

Guarantees: the copy equals what it was made of, with the same type and metadata; its buffers are
aligned to 8 bytes at least, and keep their extent alive.
Locks: none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coldmem.errors import MissingLibraryError, UsageError

if TYPE_CHECKING:
    from coldmem.memory.manager import Manager


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError as error:
        raise MissingLibraryError(
            f"Memory.arrow needs pyarrow, which cannot be imported ({error}): pip install pyarrow"
        ) from error
    return pyarrow


def copy_arrow(memory: Manager, data: Any) -> Any:
    """See `coldmem.Memory.arrow`."""
    pa = _pyarrow()
    if isinstance(data, pa.Table):
        columns = [_copy_column(pa, memory, column) for column in data.columns]
        return pa.Table.from_arrays(columns, schema=data.schema) if columns else data
    if isinstance(data, pa.RecordBatch):
        arrays = [_copy_array(pa, memory, array) for array in data.columns]
        return pa.RecordBatch.from_arrays(arrays, schema=data.schema) if arrays else data
    if isinstance(data, pa.ChunkedArray):
        return _copy_column(pa, memory, data)
    if isinstance(data, pa.Array):
        return _copy_array(pa, memory, data)
    if hasattr(data, "__arrow_c_stream__"):
        return copy_arrow(memory, pa.table(data))
    raise UsageError(
        f"{type(data).__name__} is no Arrow data: pass a pyarrow Table, RecordBatch, ChunkedArray or "
        "Array, or a table of another library that speaks Arrow"
    )


def _copy_array(pa: Any, memory: Manager, array: Any) -> Any:
    chunks = _copy_column(pa, memory, pa.chunked_array([array])).chunks
    return chunks[0] if chunks else array


def _copy_column(pa: Any, memory: Manager, column: Any) -> Any:
    """The chunks of a column as batches of one stream, in an extent of their own."""
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):  # the stream would need its name to be registered
        storage = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
        copied = _copy_column(pa, memory, storage).chunks
        return pa.chunked_array([pa.ExtensionArray.from_storage(kind, one) for one in copied], kind)
    if not column.chunks:
        return column
    schema = pa.schema([pa.field("", kind)])
    batches = [pa.RecordBatch.from_arrays([chunk], schema=schema) for chunk in column.chunks]
    counted = pa.MockOutputStream()
    _write(pa, counted, schema, batches)
    room = pa.py_buffer(memory.allocate(counted.size()))
    _write(pa, pa.FixedSizeBufferWriter(room), schema, batches)
    copied = pa.ipc.open_stream(room).read_all().column(0)
    if copied.type != kind:
        raise UsageError(
            f"an Arrow array of type {kind} cannot be copied: register its extension type with pyarrow"
        )
    return copied


def _write(pa: Any, sink: Any, schema: Any, batches: list[Any]) -> None:
    options = pa.ipc.IpcWriteOptions(allow_64bit=True, unify_dictionaries=False)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
