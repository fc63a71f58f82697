"""`Worker`: Dask's worker with a `Store` for its data.

Owns: nothing; the plugin that `attach` adds ends the store with the worker.
Guarantees: as `distributed.Worker`. Assumes: nothing. Locks: none.
"""

from __future__ import annotations

from typing import Any

from distributed import Worker as DaskWorker

from coldmem.dask.ahead import attach
from coldmem.dask.store import Store


class Worker(DaskWorker):
    """A `distributed.Worker` that compresses before it writes to disk.

    For ``dask worker --worker-class coldmem.dask.Worker`` and ``LocalCluster(worker_class=Worker)``.

    Parameters
    ----------
    *args, **kwargs
        As for `distributed.Worker`. With a ``data=`` of your own that is taken instead.
    """

    def __init__(self, *args: Any, data: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, data=Store if data is None else data, **kwargs)
        if isinstance(self.data, Store):
            attach(self, self.data)
