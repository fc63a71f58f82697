"""Reading ahead: when a task begins, the inputs of those that come next are brought back.

Owns: nothing but a plugin in a worker's list. Guarantees: what it asks for is bounded by the number of the
worker's threads and by the store, which brings nothing back that has no room.
Assumes: a worker's ready tasks run in the order of their priority. Locks: none: it runs in the event loop.
"""

from __future__ import annotations

import weakref
from typing import Any

from distributed import Worker
from distributed.diagnostics.plugin import WorkerPlugin as DaskPlugin

from coldmem.dask.store import Store

_NAME = "coldmem-read-ahead"


class ReadAhead(DaskPlugin):
    """Tells a store what the next tasks need."""

    def __init__(self, worker: Worker, store: Store) -> None:
        self._worker = weakref.ref(worker)
        self._store = weakref.ref(store)

    def transition(self, key: Any, start: str, finish: str, **kwargs: Any) -> None:
        """Dask calls this for each change of a task's state."""
        if finish != "executing":
            return
        worker, store = self._worker(), self._store()
        if worker is None or store is None:
            return
        for task in list(worker.state.ready.peekn(worker.state.nthreads)):
            store.prefetch([dependency.key for dependency in task.dependencies])


def watch(worker: Worker, store: Store) -> None:
    """Have `store` read ahead for `worker`."""
    worker.plugins[_NAME] = ReadAhead(worker, store)
