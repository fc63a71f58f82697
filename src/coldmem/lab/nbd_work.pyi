from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coldmem.lab.gate import Gate

class NbdWork:
    def __init__(
        self, fds: Sequence[int], socket: bool, command: int, request_bytes: int, depth: int,
        content: npt.NDArray[np.uint8], order: npt.NDArray[np.uint64], gate: Gate,
        compare_all: bool = False,
    ) -> None: ...
    def run(self, client: int) -> None: ...
    def totals(self) -> dict[str, int]: ...
    def times(self) -> list[int]: ...
