"""A `Store` for workers that run already: a plugin of theirs, and a preload.

Owns: nothing.
Guarantees: the exchange is one step of the event loop, so that no task sees half of it; the keys that
    the worker holds stay readable all the time.
Assumes: it runs in the worker's event loop, as Dask runs plugins and preloads. Locks: none.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from distributed import Status, Worker
from distributed.diagnostics.plugin import WorkerPlugin as DaskPlugin

from coldmem.dask.store import Store

logger = logging.getLogger("coldmem.dask")

# The event loop is held for so long at a time while values move from the former store.
_STEP_S = 0.02


class WorkerPlugin(DaskPlugin):
    """Gives each worker of a cluster a `Store`: ``client.register_plugin(WorkerPlugin())``.

    Workers that are started later get one too. What a worker holds already moves over, between its other
    work. Taking the plugin away leaves the stores in place until their workers end.

    Parameters
    ----------
    **options
        Arguments of `Store`: ``threads``, ``codec``, ``memory_limit``.
    """

    name = "coldmem-store"
    idempotent = True

    def __init__(self, **options: Any) -> None:
        self.options = options

    async def setup(self, worker: Worker) -> None:
        """Exchange the store of `worker`; called by Dask."""
        await exchange(worker, **self.options)


async def exchange(worker: Worker, **options: Any) -> None:
    """Give `worker` a `Store` in place of what it has, with everything that is in that.

    Parameters
    ----------
    worker : Worker
        Of this process; the caller is in its event loop.
    **options
        Arguments of `Store`.
    """
    former = worker.data
    if isinstance(former, Store):
        return
    store = Store(worker.local_directory, **options)
    # The three places where a worker has it; no await in between.
    worker.memory_manager.data = store
    worker.state.data = store
    store.take_over(former)
    while store.adopt_some(_STEP_S):
        await asyncio.sleep(0)
        if worker.status in (Status.closing, Status.closed, Status.failed):
            return


async def dask_setup(worker: Any) -> None:
    """For ``dask worker --preload coldmem.dask``; called by Dask.

    Parameters
    ----------
    worker : Worker
        Anything else, such as a scheduler that preloads the same module, is left alone.
    """
    if isinstance(worker, Worker):
        await exchange(worker)
