"""The memory of a Dask worker: its data store, a worker with it, and a plugin for clusters that run.

Owns: nothing; names are imported when they are first used, since distributed is large and optional.
Guarantees: without distributed a name raises `MissingLibraryError`, which says what to install.
Assumes: nothing. Locks: none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from coldmem.errors import MissingLibraryError

if TYPE_CHECKING:
    from coldmem.dask.plugin import WorkerPlugin, dask_setup
    from coldmem.dask.store import Store
    from coldmem.dask.worker import Nanny, Worker

__all__ = ["Nanny", "Store", "Worker", "WorkerPlugin", "dask_setup"]

_HOME = {"Nanny": "worker", "Store": "store", "Worker": "worker", "WorkerPlugin": "plugin",
         "dask_setup": "plugin"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'coldmem.dask' has no attribute {name!r}")
    try:
        module = import_module(f"coldmem.dask.{_HOME[name]}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] not in ("dask", "distributed"):
            raise
        raise MissingLibraryError(
            f"coldmem.dask.{name} needs distributed, and {error.name} is not installed: "
            "pip install 'coldmem[dask]'"
        ) from error
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
