"""``bench engine``: what coldmem adds to the bare codec, on the same units in the same run.

Owns the Zswap of each row, closed before the next. Guarantees: both sides see every unit as often,
in blocks that take turns, and each finds source and results as cold as the other does (a block is
touched again only after all others were; coldmem works half a round away from the bare codec, so
neither warms the other's data). Both store units in their order and load them in one random order,
as faults come: loading in the order of storing would let the bare codec read its log in a stream,
which no cache of compressed units gets to do. Times are CPU time of the one thread.
Time of a row is the sum over blocks of the median over repeats, so that an interruption in one
block of one repeat counts for nothing. All units are compared at the end of a row.
What is compared: bare = compress + decompress (see engine_work.py for what that includes).
coldmem = store + load + invalidate, through the C functions, one call per unit and each with its
working context taken and given back, with the pool as full as it gets and nothing written back.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence

from coldmem.codecs import get_codec
from coldmem.errors import UsageError
from coldmem.lab import corpora
from coldmem.lab.engine_work import EngineWork
from coldmem.lab.result import Result, Row, Spread, rounded
from coldmem.zswap import Zswap

CORPORA = ("text", "elf", "float64", "int64", "zeros", "random")
UNIT_BYTES = (4096, 16384, 65536)
BLOCK_BYTES = 512 << 10
CORPUS_BYTES = 16 << 20
PARTS = ("compress", "decompress", "store", "load", "invalidate")

Report = Callable[[str], None]


def run(
    names: Sequence[str] = CORPORA, unit_bytes: Sequence[int] = UNIT_BYTES, codec: str = "lz4",
    repeats: int = 7, corpus_bytes: int = CORPUS_BYTES, locking: str = "handle",
    report: Report = lambda line: None,
) -> Result:
    """Measure every corpus with every unit size.

    Parameters
    ----------
    names : sequence of str
        Keys of `coldmem.lab.corpora.KINDS`.
    unit_bytes : sequence of int
        Sizes of a unit.
    codec : str
        As for `coldmem.codecs.get_codec`.
    repeats : int
        Rounds over all units that are measured; one more comes first and is not.
    corpus_bytes : int
        Of each corpus.
    locking : str
        Of the pool.
    """
    if repeats < 1:
        raise UsageError("--repeats must be 1 or more")
    if corpus_bytes < 2 * max(unit_bytes):
        raise UsageError("--bytes must be two units or more")
    settings: Row = {
        "codec": codec, "repeats": repeats, "corpus_bytes": corpus_bytes,
        "block_bytes": BLOCK_BYTES, "locking": locking, "times_are": "CPU ns per unit",
    }
    result = Result("bench_engine", settings)
    for name in names:
        data = corpora.make(name, corpus_bytes)
        for size in unit_bytes:
            report(f"{name}, units of {size // 1024}K")
            whole = data[: corpus_bytes // size * size].tobytes()
            result.rows.append(_measure(name, whole, size, codec, repeats, locking))
    return result


def _measure(
    name: str, data: bytes, unit: int, codec: str, repeats: int, locking: str
) -> Row:
    with Zswap(
        unit_bytes=unit, codec=codec, max_pool=2 * len(data) + (64 << 20), locking=locking,
        shrinker_thread=False,
    ) as zswap:
        order = list(range(len(data) // unit))
        random.Random(unit).shuffle(order)
        work = EngineWork(zswap, get_codec(codec), data, order)
        units = work.units()
        per_block = max(1, min(BLOCK_BYTES // unit, units // 2))
        blocks = [(b, min(b + per_block, units)) for b in range(0, units, per_block)]
        work.store_ns(0, units)
        rounds = [_round(work, blocks, r % 2 == 1) for r in range(repeats + 1)][1:]
        state = work.verify()
        compressed = work.compressed_bytes()

    def per_unit(part: str) -> float:
        medians = (statistics.median(r[part][b] for r in rounds) for b in range(len(blocks)))
        return sum(medians) / units

    ns = {part: per_unit(part) for part in PARTS}
    bare = ns["compress"] + ns["decompress"]
    cold = ns["store"] + ns["load"] + ns["invalidate"]
    ratios = Spread.of(
        [
            (sum(r["store"]) + sum(r["load"]) + sum(r["invalidate"]))
            / (sum(r["compress"]) + sum(r["decompress"]))
            for r in rounds
        ]
    )
    return {
        "corpus": name,
        "unit_bytes": unit,
        "codec": codec,
        "ratio": rounded(len(data) / compressed),
        "bare_ns": rounded(bare),
        "coldmem_ns": rounded(cold),
        "overhead_ratio": rounded(cold / bare),
        "overhead_ratio_min": rounded(ratios.low),
        "overhead_ratio_max": rounded(ratios.high),
        "repeats": repeats,
        "units": units,
        **{f"{part}_ns": rounded(value) for part, value in ns.items()},
        "result_hash": state,
    }


def _round(
    work: EngineWork, blocks: Sequence[tuple[int, int]], swapped: bool
) -> dict[str, list[int]]:
    """One round over all units: nanoseconds of each part, by block."""
    n = len(blocks)
    ns: dict[str, list[int]] = {part: [0] * n for part in PARTS}
    for i in range(n):
        for cold_turn in (swapped, not swapped):
            # coldmem is half a round away, so that what one side read is not warm for the other;
            # each side loads a block half a round after it stored it.
            if cold_turn:
                there, later = (i + n // 2) % n, i
                ns["invalidate"][there] = work.invalidate_ns(*blocks[there])
                ns["store"][there] = work.store_ns(*blocks[there])
                ns["load"][later] = work.load_ns(*blocks[later])
            else:
                there, later = i, (i + n // 2) % n
                ns["compress"][there] = work.bare_compress_ns(*blocks[there])
                ns["decompress"][later] = work.bare_decompress_ns(*blocks[later])
    return ns
