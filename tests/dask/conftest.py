"""The fixtures of ``conftest_dask``."""

from conftest_dask import held, make_store

__all__ = ["held", "make_store"]
