"""``import coldmem`` brings nothing along; each public name is there when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import coldmem


def test_importing_brings_nothing_along() -> None:
    code = (
        "import sys, coldmem\n"
        "print(*(m for m in sys.modules if m.split('.')[0] in ('numpy', 'coldmem')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                          env={"PYTHONPATH": str(Path(coldmem.__file__).parents[1])})
    assert done.stdout.split() == ["coldmem"]


@pytest.mark.parametrize("name", coldmem.__all__)
def test_each_name_is_there(name: str) -> None:
    value = getattr(coldmem, name)
    assert value.__name__ == name
    assert name in dir(coldmem)


def test_what_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Memry'"):
        coldmem.Memry  # noqa: B018
    assert coldmem.units.parse_bytes("1K") == 1024
