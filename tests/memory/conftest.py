"""Memories for the tests; loud skips where the machine permits no userfaultfd."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from coldmem import Memory
from coldmem.linux.userfaultfd import rights_here

RIGHTS = rights_here()


def _deliveries() -> list[Any]:
    missing = "userfaultfd gives this process the rights {!r}: run as root, or see `coldmem doctor`"
    return [
        pytest.param("sigbus", marks=pytest.mark.skipif(
            RIGHTS == "none", reason=missing.format(RIGHTS))),
        pytest.param("handler", marks=pytest.mark.skipif(
            RIGHTS != "full", reason=missing.format(RIGHTS))),
    ]


@pytest.fixture(params=_deliveries())
def delivery(request: pytest.FixtureRequest) -> str:
    """Both ways for a fault to reach us."""
    return str(request.param)


@pytest.fixture
def make_memory(delivery: str) -> Iterator[Callable[..., Memory]]:
    """`make_memory("16M", swap_max="64M")`; each is closed at the end, so arrays must be gone."""
    made: list[Memory] = []

    def make(memory_max: int | str = "16M", swap_max: int | str = 0, **options: Any) -> Memory:
        memory = Memory(memory_max, swap_max, delivery=delivery, **options)
        made.append(memory)
        return memory

    yield make
    for memory in made:
        memory.close()
