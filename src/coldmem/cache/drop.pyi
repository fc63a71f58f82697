from typing import Any

from coldmem.cache.core import Core

class Dropper(Core):
    def _drop(self, key: Any, identity: tuple[int, int, int] | None = None) -> bool: ...
    def _identity(self, key: Any) -> tuple[int, int, int] | None: ...
