"""What a worker tells its store: which values the next tasks need, who asks for one, and when it ends.

Owns: nothing but a plugin in a worker's list.
Guarantees: what it asks for is bounded by the number of the worker's threads and by the store, which
    brings nothing back that has no room. The store ends when the worker does, before Dask removes its
    directory.
Assumes: a worker's ready tasks run in the order of their priority.
Locks: none: it runs in the event loop.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from distributed import Status, Worker
from distributed.diagnostics.plugin import WorkerPlugin as DaskPlugin

from coldmem.dask.pieces import takes_one

if TYPE_CHECKING:
    from coldmem.dask.store import Store

_NAME = "coldmem-attached"


class Attached(DaskPlugin):
    """Connects a store with its worker."""

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
            store.prefetch([dependency.key for dependency in task.dependencies], takes_one(task))

    def size_of(self, key: Any) -> int | None:
        """Bytes of a value as Dask has found, in the thread of the task that made it, if it has."""
        worker = self._worker()
        task = None if worker is None else worker.state.tasks.get(key)
        return None if task is None else task.nbytes

    def wants_item(self, key: Any) -> bool:
        """Whether only tasks that take one item of this value are about to use it."""
        worker = self._worker()
        task = None if worker is None else worker.state.tasks.get(key)
        if worker is None or task is None:
            return False
        running = worker.state.executing | worker.state.long_running
        users = [user for user in running if task in user.dependencies]
        return bool(users) and all(takes_one(user) for user in users)

    def teardown(self, worker: Worker) -> None:
        """Dask calls this when the worker ends, after its last work for others."""
        store = self._store()
        if store is not None and worker.status in (Status.closing, Status.closed, Status.failed):
            store.close()


def attach(worker: Worker, store: Store) -> Attached:
    """Connect `store` with the worker that has it; in the worker's event loop."""
    attached = worker.plugins[_NAME] = Attached(worker, store)
    return attached
