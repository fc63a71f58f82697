from collections.abc import Mapping, Sequence
from typing import Any

KINDS: tuple[str, ...]
MODE_NAMES: tuple[str, ...]
COSTS: tuple[str, ...]
BATCHES: int
TASKS_MAX: int



Step = tuple[str, float, float, float, float, float]

class Simulation:
    @property
    def tasks(self) -> int: ...
    @property
    def cores(self) -> int: ...
    def __init__(
        self, programs: Sequence[Sequence[Step]], mix: Sequence[float], threads: int, cores: int,
        classes: Sequence[float] = ..., pools: int = ..., helper: Sequence[Step] | None = ...,
        costs: Mapping[str, float] | None = ..., shapes: tuple[int, int] = ..., fifo: bool = ...,
        seed: int = ...,
    ) -> None: ...
    def run(self, ops: int, warm: int | None = ...) -> dict[str, Any]: ...
