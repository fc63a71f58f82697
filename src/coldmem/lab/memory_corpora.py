"""What fills the region of ``bench memory``: files of whole pages, so that no process owns them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from coldmem.lab import corpora
from coldmem.lab.numeric_corpora import make_corpus

SLICE_BYTES = 1 << 20
#: In the order in which tables show them.
KINDS = {"tree": "text and ELF files of this machine, in turn", "num": "eight kinds of float64, in turn"}
_FLOATS = (
    "float64_random_walk", "float64_normal", "float64_uniform", "float64_smooth_field",
    "float64_prices", "float64_whole_numbers", "float64_linspace", "float64_sparse",
)


def _in_turn(parts: list[corpora.Bytes], slice_bytes: int) -> corpora.Bytes:
    """A slice of each, again and again."""
    return np.stack([part.reshape(-1, slice_bytes) for part in parts], axis=1).reshape(-1)


def write_corpus(kind: str, size_bytes: int, path: Path) -> None:
    """At least `size_bytes` of `kind`, which is a key of `KINDS`, in whole slices."""
    count = len(_FLOATS) if kind == "num" else 2
    slice_bytes = min(SLICE_BYTES, max(size_bytes // count // 4096, 1) * 4096)
    each = -(-size_bytes // (slice_bytes * count)) * slice_bytes
    if kind == "num":
        parts = [np.frombuffer(make_corpus(name, each), np.uint8) for name in _FLOATS]
    else:
        parts = [corpora.make("text", each), corpora.make("elf", each)]
    _in_turn(parts, slice_bytes).tofile(path)
