"""Corpora of the machine: of the size asked for, the same each time, and what they claim to be."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

from coldmem.errors import EnvironmentFailure, UsageError
from coldmem.lab import corpora


@pytest.mark.parametrize("kind", corpora.KINDS)
def test_size_and_repeatability(kind: str) -> None:
    one = corpora.make(kind, 300_001)
    assert one.dtype == np.uint8 and one.shape == (300_001,)
    assert np.array_equal(one, corpora.make(kind, 300_001))


def test_kinds_are_what_they_claim() -> None:
    size = 1 << 20
    ratio = {
        kind: size / len(zlib.compress(corpora.make(kind, size).tobytes(), 1))
        for kind in corpora.KINDS
    }
    assert ratio["zeros"] > 100 and 0.99 < ratio["random"] < 1.01
    assert ratio["text"] > 2 and ratio["elf"] > 1.3
    assert corpora.make("elf", 4096).tobytes().startswith(b"\x7fELF")
    assert np.isfinite(corpora.make("float64", 8 << 20).view(np.float64)).mean() > 0.9


def test_too_few_bytes_are_repeated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "short.py"
    file.write_bytes(b"0123456789")
    gone = tmp_path / "gone.py"
    monkeypatch.setattr(corpora, "_text_files", lambda: iter([str(gone), str(file)]))
    assert corpora.make("text", 25).tobytes() == b"0123456789" * 2 + b"01234"


def test_no_files_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "_text_files", lambda: iter([]))
    with pytest.raises(EnvironmentFailure, match="no readable text files"):
        corpora.make("text", 10)


def test_misuse() -> None:
    with pytest.raises(UsageError, match="no corpus is called 'nix'"):
        corpora.make("nix", 10)
    with pytest.raises(UsageError, match="makes no sense"):
        corpora.make("text", 0)
