from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from coldmem.lab.gate import Gate
from coldmem.zswap import Zswap

class ReplayWork:
    def __init__(
        self, zswap: Zswap, gate: Gate, op: npt.NDArray[np.uint8], slot: npt.NDArray[np.uint32],
        nbytes: npt.NDArray[np.uint32], starts: Sequence[int], noise: bytes, rounds: int = ...,
        coded: bool = ...,
    ) -> None: ...
    def run(self, thread: int) -> None: ...
    def totals(self) -> dict[str, int]: ...
    def verify(self) -> tuple[int, str]: ...
