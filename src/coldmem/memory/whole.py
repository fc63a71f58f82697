"""A whole program in one Memory: made when the program imports NumPy, and not before.

Owns: the Memory of ``coldmem run``, one in a process, which stays open until the process ends.
Guarantees: a program that never imports NumPy pays for nothing. From the end of that import on, every
thread and context allocates here, whoever starts it, unless it sets an allocator of its own.
What cannot be (no userfaultfd, a wrong size) is said before the program starts; what is found out
only when the Memory is made ends the program with the error's exit code.
Locks: none; the import lock of NumPy covers the making.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from coldmem.errors import ColdmemError, UsageError
from coldmem.linux.usage import process_cpu_s, thread_cpu_s
from coldmem.memory.rights import choose_delivery
from coldmem.memory.sizes import THRESHOLD_BYTES, UNIT_BYTES, memory_bytes
from coldmem.units import format_bytes, parse_bytes

if TYPE_CHECKING:
    from coldmem.memory.memory import Memory

UNITS = (4096, 16384, 65536)


@dataclass(frozen=True)
class Settings:
    """Arguments of the `Memory`, by their names there."""

    memory_max: int | str = "auto"
    swap_max: int | str = "auto"
    unit_bytes: int | str = UNIT_BYTES
    delivery: str = "auto"
    directory: str | None = None
    codec: str = "auto"
    cold_codec: str | None = "auto"
    overcommit: bool = False
    threshold: int | str = THRESHOLD_BYTES

    def check(self) -> None:
        """Raise for what surely cannot be, without importing NumPy."""
        choose_delivery(self.delivery)
        memory_bytes(self.memory_max)
        if self.swap_max != "auto":
            parse_bytes(self.swap_max)
        parse_bytes(self.threshold)
        if parse_bytes(self.unit_bytes) not in UNITS:
            raise UsageError(f"units of {self.unit_bytes} bytes: choose 4K, 16K or 64K")
        if self.directory is not None and not os.path.isdir(self.directory):
            raise UsageError(f"there is no directory {self.directory} for the swap file")


class _AfterImport:
    """Calls `then` once, when a module of this name has been imported."""

    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name, self._then = name, then

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._name:
            return None
        for finder in [f for f in sys.meta_path if f is not self]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._watch(spec.loader)
                return spec
        return None

    def _watch(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module  # the class has it
            execute(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._then()

        loader.exec_module = exec_module


class WholeProgram:
    """The Memory of a program, from `arm` to the end of the process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.memory: Memory | None = None
        self._hook: object = None

    def arm(self) -> None:
        """Wait for NumPy. Raises `ColdmemError` for what cannot be."""
        self.settings.check()
        if "numpy" in sys.modules:
            self._make()
        else:
            sys.meta_path.insert(0, _AfterImport("numpy", self._make_or_end))

    def _make(self) -> None:
        from coldmem.memory.memory import Memory
        from coldmem.memory.numpy_hook import make_hook, replace_default

        self.memory = Memory(**asdict(self.settings))
        self._hook = make_hook(self.memory, self.memory.threshold_bytes)
        replace_default(self._hook)

    def _make_or_end(self) -> None:
        try:
            self._make()
        except ColdmemError as error:
            print(f"coldmem: {error}", file=sys.stderr)
            raise SystemExit(error.exit_code) from None

    def stats(self) -> dict[str, Any] | None:
        """What `Memory.stats` says, and the arrays that NumPy put there. None: no NumPy, no Memory."""
        if self.memory is None:
            return None
        from coldmem.memory.numpy_hook import hook_stats

        found = hook_stats(self._hook)
        return self.memory.stats() | {
            "arrays_taken": found["taken"], "arrays_taken_bytes": found["taken_bytes"],
            "array_bytes_peak": found["peak_bytes"], "allocations_refused": found["refused"],
        } | _cpu_seconds()

    def advice(self, error: BaseException) -> str | None:
        """For a program that a MemoryError ends: how full it is, and what to raise."""
        found = self.stats()
        if found is None or not isinstance(error, MemoryError):
            return None
        from coldmem.memory.numpy_hook import hook_stats

        if not found["allocations_refused"]:
            return (
                "coldmem refused nothing: the memory that was missing was not to be an array of "
                f"{format_bytes(parse_bytes(self.settings.threshold))} or more (--threshold)"
            )
        refused = hook_stats(self._hook)
        return (
            f"no room for an array of {format_bytes(refused['refused_bytes'])}: arrays of "
            f"{format_bytes(refused['refused_at_bytes'])} were alive, and --memory-max "
            f"{format_bytes(found['memory_max_bytes'])} with --swap-max "
            f"{format_bytes(found['swap_max_bytes'])} "
            + ("has no addresses for more" if self.settings.overcommit else
               f"surely hold {format_bytes(refused['promise_bytes'])}, whatever is in them. Raise "
               "--swap-max or --memory-max, or pass --overcommit if the data is known to compress")
        )


def _cpu_seconds() -> dict[str, float]:
    """CPU time of the process, and what of it our own threads have used, by what they do."""
    ours: dict[str, float] = {}
    for thread in threading.enumerate():
        if thread.name.startswith("coldmem-") and thread.native_id is not None:
            what = thread.name.removeprefix("coldmem-").rstrip("-0123456789")
            ours[what] = ours.get(what, 0.0) + thread_cpu_s(thread.native_id)
    user, system = process_cpu_s()
    return {"cpu_user_s": user, "cpu_system_s": system} | {
        f"cpu_{name}_s": seconds for name, seconds in ours.items()
    }
