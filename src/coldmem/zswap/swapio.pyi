from collections.abc import Sequence

class Faults:
    def __init__(
        self, rows: Sequence[tuple[int, int, int, int, int, int]], seed: int
    ) -> None: ...
    def hits(self) -> list[int]: ...
