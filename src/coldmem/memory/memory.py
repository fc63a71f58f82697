"""`Memory`: what a user sees. Real NumPy arrays whose cold units are compressed.

Owns: the hook through which NumPy allocates inside ``with memory:``, and what makes new threads use it.
Guarantees: what the constructors return are plain ``numpy.ndarray``s; their memory lives as long as
any array, slice or view of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from coldmem.errors import UsageError
from coldmem.memory.arrow import copy_arrow
from coldmem.memory.check import check_memory
from coldmem.memory.hooked import HookStack
from coldmem.memory.manager import Manager
from coldmem.memory.sizes import THRESHOLD_BYTES, UNIT_BYTES, cold_name, memory_bytes, swap_bytes
from coldmem.units import parse_bytes

Shape = int | Sequence[int]


class Memory(Manager):
    """More memory for NumPy arrays than there is RAM for.

    Cold parts of its arrays are compressed, and go to a swap file when that is not enough; they come
    back when they are touched, by whatever code.

    Parameters
    ----------
    memory_max : int or str, default "auto"
        RAM for arrays, compressed data and metadata together: "512MiB", or "50%" of what the memory
        cgroup or the machine allows; "auto" is half of that.
    swap_max : int or str, default "auto"
        Most bytes of the swap file; 0 for none. "auto": eight times `memory_max`, and not more than
        half of what is free on the disk.
    unit_bytes : int or str, default "4K"
        What one fault moves at least: "4K", "16K" or "64K".
    delivery : {"auto", "handler", "sigbus"}
        How faults reach us; see the design document. "auto" takes "handler" where the process has the
        right to it, since system calls on arrays then just work.
    directory : str, optional
        Where the swap file is.
    codec : str, default "auto"
        As for `coldmem.Zswap`.
    cold_codec : str or None, default "auto"
        What stays cold is packed once more with it, while the machine has time. "auto": zstd, where
        there is libzstd and `codec` is "auto" or "lz4". None: nothing is.
    overcommit : bool, default False
        Allow more arrays than RAM and swap file would hold if nothing could be compressed.
    threshold : int or str, default "256K"
        Inside ``with memory:``, smaller allocations stay with NumPy's own allocator.

    Raises
    ------
    UsageError
        An argument is wrong.
    EnvironmentFailure
        The system permits no userfaultfd; ``coldmem doctor`` says how to.

    Examples
    --------
    >>> import numpy as np, coldmem
    >>> with coldmem.Memory("64MiB", swap_max="256MiB") as memory:
    ...     a = np.ones((4096, 4096))  # 128 MiB
    ...     float(a.sum())
    16777216.0
    """

    def __init__(
        self, memory_max: int | str = "auto", swap_max: int | str = "auto", *,
        unit_bytes: int | str = UNIT_BYTES, delivery: str = "auto", directory: str | None = None,
        codec: str = "auto", cold_codec: str | None = "auto", overcommit: bool = False,
        threshold: int | str = THRESHOLD_BYTES,
    ) -> None:
        memory = memory_bytes(memory_max)
        self._start(
            memory, swap_bytes(swap_max, memory, directory), parse_bytes(unit_bytes), delivery,
            directory, codec, overcommit, "handle", cold_name(codec, cold_codec),
        )
        self.threshold_bytes = max(parse_bytes(threshold), 1)
        self._hooks = HookStack(self)

    # -- NumPy allocates here ----------------------------------------------------------------------
    def __enter__(self) -> Self:
        """NumPy allocates here, in this thread and in threads that are started meanwhile."""
        self._hooks.enter(self.threshold_bytes)
        return self

    def __exit__(self, *exc: object) -> None:
        self._hooks.leave()

    def check_valid(self, level: str = "cheap") -> None:
        """Check the invariants. Faults and calls in other threads wait meanwhile.

        Parameters
        ----------
        level : {"cheap", "full"}
            "cheap": the state of each unit, and all counts. "full": the kernel's page table, free
            lists and the compressed data too.

        Raises
        ------
        CorruptPoolError
            A structure contradicts itself.
        """
        check_memory(self, level)

    # -- arrays ------------------------------------------------------------------------------------
    def empty(
        self, shape: Shape, dtype: npt.DTypeLike = float, order: str = "C"
    ) -> npt.NDArray[Any]:
        """As `numpy.empty`; the content is zeros."""
        return self.zeros(shape, dtype, order)

    def zeros(
        self, shape: Shape, dtype: npt.DTypeLike = float, order: str = "C"
    ) -> npt.NDArray[Any]:
        """As `numpy.zeros`. Costs memory only where it is written or read."""
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise UsageError(
                "arrays of Python objects cannot live in a Memory: the objects themselves would not"
            )
        if order not in ("C", "F"):
            raise UsageError(f"order={order!r}: choose 'C' or 'F'")
        sizes = (shape,) if isinstance(shape, int) else tuple(int(n) for n in shape)
        if min(sizes, default=0) < 0:
            raise UsageError(f"shape {sizes}: a length is negative")
        nbytes = kind.itemsize
        for size in sizes:
            nbytes *= size
        if nbytes == 0:
            return np.zeros(sizes, kind)
        return np.ndarray(sizes, kind, buffer=self.allocate(nbytes), order="F" if order == "F" else "C")

    def ones(
        self, shape: Shape, dtype: npt.DTypeLike = float, order: str = "C"
    ) -> npt.NDArray[Any]:
        """As `numpy.ones`."""
        return self.full(shape, 1, dtype, order)

    def full(
        self, shape: Shape, fill_value: Any, dtype: npt.DTypeLike | None = None, order: str = "C"
    ) -> npt.NDArray[Any]:
        """As `numpy.full`."""
        kind = np.asarray(fill_value).dtype if dtype is None else np.dtype(dtype)
        array = self.zeros(shape, kind, order)
        array[...] = fill_value
        return array

    def array(
        self, data: npt.ArrayLike, dtype: npt.DTypeLike | None = None, order: str = "C"
    ) -> npt.NDArray[Any]:
        """A copy of `data` that lives here, as `numpy.array` makes one."""
        source = np.asarray(data, dtype)
        array = self.zeros(source.shape, source.dtype, order)
        array[...] = source
        return array

    def frombuffer(self, data: Any, dtype: npt.DTypeLike = float) -> npt.NDArray[Any]:
        """A writable copy of the bytes of `data`, any buffer, as `numpy.frombuffer` reads them."""
        return self.array(np.frombuffer(data, dtype))

    def zeros_like(self, other: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        """As `numpy.zeros_like`, by shape and type."""
        model = np.asarray(other)
        return self.zeros(model.shape, model.dtype if dtype is None else dtype)

    def empty_like(self, other: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        """As `numpy.empty_like`; the content is zeros."""
        return self.zeros_like(other, dtype)

    def ones_like(self, other: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
        """As `numpy.ones_like`, by shape and type."""
        model = np.asarray(other)
        return self.ones(model.shape, model.dtype if dtype is None else dtype)

    def full_like(
        self, other: npt.ArrayLike, fill_value: Any, dtype: npt.DTypeLike | None = None
    ) -> npt.NDArray[Any]:
        """As `numpy.full_like`, by shape and type."""
        model = np.asarray(other)
        return self.full(model.shape, fill_value, model.dtype if dtype is None else dtype)

    # -- Arrow -------------------------------------------------------------------------------------
    def arrow(self, data: Any) -> Any:
        """A copy of Arrow data whose buffers live here. Needs pyarrow.

        Cold parts of it are compressed like those of arrays, by whatever Arrow code it is used; what
        that code computes from it is allocated by Arrow, outside. `evict`, `prefetch`, `madvise` and
        `pinned` take its buffers (``column.chunk(0).buffers()``).

        Parameters
        ----------
        data : pyarrow.Table, pyarrow.RecordBatch, pyarrow.ChunkedArray or pyarrow.Array
            Of any type: nested, dictionaries, strings, with missing values, sliced. Or a table of
            another library that speaks Arrow's C stream interface, such as a pandas DataFrame.

        Returns
        -------
        pyarrow.Table, pyarrow.RecordBatch, pyarrow.ChunkedArray or pyarrow.Array
            Equal to `data`, with its schema; each column keeps its own memory alive.

        Raises
        ------
        MissingLibraryError
            pyarrow is not installed.
        MemoryLimitError
            RAM and swap file together might not hold it.

        Examples
        --------
        >>> import coldmem, pyarrow as pa
        >>> memory = coldmem.Memory("64MiB", swap_max="256MiB")
        >>> memory.arrow(pa.table({"name": ["a", None, "b"]})).column("name").to_pylist()
        ['a', None, 'b']
        """
        return copy_arrow(self, data)
