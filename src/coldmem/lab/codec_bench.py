"""Codecs against each other on numeric corpora: bytes stored, and speed of both directions.

Codecs take turns on each corpus, so that a slow moment of the machine meets all of them; the fastest
pass counts. Hints are new in each pass: a codec that learns pays for learning every time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from coldmem.codecs import get_codec
from coldmem.lab.codec_timing import time_codec
from coldmem.lab.numeric_corpora import CORPORA, make_corpus

CODECS = ("lz4", "auto")
MB = 1e6


def run(
    seconds: float = 30.0,
    corpora: Iterable[str] | None = None,
    codecs: Sequence[str] = CODECS,
    unit_bytes: Sequence[int] = (4096, 65536),
    corpus_bytes: int = 1 << 20,
    region_bytes: int = 1 << 20,
) -> list[dict[str, Any]]:
    """Measure each codec on each corpus and unit size.

    Parameters
    ----------
    seconds : float
        Time for all of it; each combination runs at least twice whatever this says.
    corpora : iterable of str, optional
        Names in `coldmem.lab.numeric_corpora.CORPORA`; all by default.
    codecs : sequence of str
        Names for `coldmem.codecs.get_codec`.
    unit_bytes : sequence of int
        Unit sizes.
    corpus_bytes : int
        Size of each corpus.
    region_bytes : int
        Bytes that share a hint.

    Returns
    -------
    list of dict
        One row per combination: `corpus`, `unit_bytes`, `codec`, `ratio` (bytes before / bytes
        stored), `stored_bytes`, `compress_mb_per_s`, `decompress_mb_per_s`.
    """
    names = list(CORPORA if corpora is None else corpora)
    share = seconds / (len(names) * len(unit_bytes))
    rows = []
    hint = 1
    for name in names:
        data = make_corpus(name, corpus_bytes)
        for unit in unit_bytes:
            made = [get_codec(codec) for codec in codecs]
            best: list[dict[str, int]] = [{} for _ in made]
            end = time.monotonic() + share
            passes = 0
            while passes < 2 or time.monotonic() < end:
                passes += 1
                hint += 1 << 20
                for i, codec in enumerate(made):
                    timing = time_codec(codec, data, unit, region_bytes, hint)
                    best[i] = {k: min(v, best[i].get(k, v)) for k, v in timing.items()}
            for label, timing in zip(codecs, best, strict=True):
                rows.append({
                    "corpus": name,
                    "unit_bytes": unit,
                    "codec": label,
                    "ratio": len(data) / timing["stored_bytes"],
                    "stored_bytes": timing["stored_bytes"],
                    "compress_mb_per_s": len(data) / timing["compress_ns"] * 1e9 / MB,
                    "decompress_mb_per_s": len(data) / timing["decompress_ns"] * 1e9 / MB,
                })
    return rows


def summarise(rows: list[dict[str, Any]], base: str = "lz4") -> list[dict[str, Any]]:
    """Each codec against `base` over all corpora, per unit size.

    `stored_ratio` is bytes stored / bytes that `base` stored; the speeds are of the whole, bytes of
    all corpora / time for all corpora, as are the ratios of speeds.
    """
    out = []
    for unit in sorted({row["unit_bytes"] for row in rows}):
        totals: dict[str, dict[str, float]] = {}
        for row in rows:
            if row["unit_bytes"] != unit:
                continue
            total = totals.setdefault(row["codec"], dict.fromkeys(("n", "stored", "in", "out"), 0.0))
            total["n"] += 1
            total["stored"] += row["stored_bytes"]
            total["in"] += 1 / row["compress_mb_per_s"]
            total["out"] += 1 / row["decompress_mb_per_s"]
        for codec, total in totals.items():
            of = totals[base]
            out.append({
                "unit_bytes": unit,
                "codec": codec,
                "stored_ratio": total["stored"] / of["stored"],
                "compress_mb_per_s": total["n"] / total["in"],
                "compress_speed_ratio": of["in"] / total["in"],
                "decompress_mb_per_s": total["n"] / total["out"],
                "decompress_speed_ratio": of["out"] / total["out"],
            })
    return out


def main() -> None:
    """Print what `run` finds, for a look by hand."""
    rows = run()
    for row in rows:
        print(
            f"{row['corpus']:24} {row['unit_bytes']:6} {row['codec']:8} {row['ratio']:8.2f} "
            f"{row['compress_mb_per_s']:8.0f} {row['decompress_mb_per_s']:8.0f}"
        )
    for row in summarise(rows):
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()})


if __name__ == "__main__":
    main()
