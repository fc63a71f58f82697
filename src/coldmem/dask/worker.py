"""`Worker` and `Nanny`: Dask's own, with a `Store` for the data.

Owns: nothing; the store finds its worker and ends with it.
Guarantees: as `distributed.Worker` and `distributed.Nanny`. Assumes: nothing. Locks: none.
"""

from __future__ import annotations

from typing import Any

from distributed import Nanny as DaskNanny
from distributed import Worker as DaskWorker

from coldmem.dask.store import Store


class Worker(DaskWorker):
    """A `distributed.Worker` that compresses before it writes to disk.

    For ``dask worker --worker-class coldmem.dask.Worker``, which puts it into a process of its own under
    a nanny, and for clusters whose workers are threads of this process.

    Parameters
    ----------
    *args, **kwargs
        As for `distributed.Worker`.
    data : optional
        Of your own, as `distributed.Worker` takes it; instead of the store.
    """

    def __init__(self, *args: Any, data: Any = None, **kwargs: Any) -> None:
        chosen: Any = Store if data is None else data
        super().__init__(*args, data=chosen, **kwargs)


class Nanny(DaskNanny):
    """A `distributed.Nanny` whose worker is a `Worker`, for ``LocalCluster(worker_class=Nanny)``.

    LocalCluster takes a worker class that is not a nanny to mean workers in its own process.

    Parameters
    ----------
    *args, **kwargs
        As for `distributed.Nanny`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("worker_class", Worker)
        super().__init__(*args, **kwargs)
