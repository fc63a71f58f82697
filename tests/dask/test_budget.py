"""How much memory a store may take, by Dask's configuration and by what else the process holds."""

from __future__ import annotations

import dask
import pytest
from conftest_dask import MIB

from coldmem.dask.budget import UNLIMITED, Budget


def test_what_the_configuration_says() -> None:
    budget = Budget.from_config(1000 * MIB, 2)
    assert (budget.target_bytes, budget.hold_bytes) == (600 * MIB, 650 * MIB)
    assert (budget.process_target_bytes, budget.process_hold_bytes) == (700 * MIB, 750 * MIB)
    assert Budget.from_config(None, 2).target_bytes == UNLIMITED
    with dask.config.set({"distributed.worker.memory.target": False}):
        assert Budget.from_config(1000 * MIB, 2).target_bytes == 700 * MIB


@pytest.mark.parametrize(("lasting", "now", "target", "hold"), [
    (0, 0, 600, 650),
    (50, 50, 600, 650),
    (200, 200, 500, 550),  # what lasts takes from both
    (200, 400, 500, 350),  # a running task's makes who brings values wait, and then drives them out
    (5000, 5000, 125, 125),  # an eighth is left
])
def test_beside_what_else_the_process_holds(lasting: int, now: int, target: int, hold: int) -> None:
    left = Budget.from_config(1000 * MIB, 2).beside(lasting * MIB, now * MIB)
    assert (left.target_bytes, left.hold_bytes) == (target * MIB, hold * MIB)


def test_the_process_does_not_count_where_dask_does_not_look_at_it() -> None:
    with dask.config.set({"distributed.worker.memory.spill": False}):
        budget = Budget.from_config(1000 * MIB, 2)
    assert budget.beside(900 * MIB, 900 * MIB) is budget
    unlimited = Budget.from_config(None, 2)
    assert unlimited.beside(900 * MIB, 900 * MIB) is unlimited
