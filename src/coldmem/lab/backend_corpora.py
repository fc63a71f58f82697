"""What ``lab backends`` stores: units of 4K of several kinds of data, compressed one by one.

Owns nothing. Guarantees: the same objects on each call on one machine. The order is mixed (seeded): in a
cache, units of a file do not go cold in the order in which they lie in it.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from coldmem.codecs import get_codec
from coldmem.errors import UsageError
from coldmem.lab import corpora, workloads
from coldmem.lab.numeric_corpora import CORPORA as NUMERIC
from coldmem.lab.numeric_corpora import make_corpus

UNIT_BYTES = workloads.UNIT_BYTES
CODECS = ("lz4", "zstd")


@dataclass(frozen=True)
class Objects:
    """A corpus, compressed.

    Attributes
    ----------
    units : list of bytes
        What each unit became: nothing if it is one word repeated, for it takes no object; as it was if
        the codec did not make it smaller.
    """

    units: list[bytes]

    @property
    def packed(self) -> list[bytes]:
        """One object for each unit that needs one."""
        return [unit for unit in self.units if unit]

    @property
    def data_bytes(self) -> int:
        return len(self.units) * UNIT_BYTES

    @property
    def packed_bytes(self) -> int:
        return sum(map(len, self.units))

    @property
    def same_filled(self) -> int:
        """Units of one word."""
        return sum(not unit for unit in self.units)

    @property
    def incompressible(self) -> int:
        """Units that are stored as they were."""
        return sum(len(unit) == UNIT_BYTES for unit in self.units)

    def part(self, units_n: int) -> Objects:
        """The first `units_n` units: a fair sample, since their order is mixed."""
        return Objects(self.units[:units_n])


def _json(size_bytes: int) -> bytes:
    """Records as services log and exchange them, made on the spot."""
    rng = random.Random(20240617)
    names = ["ada", "grace", "linus", "margaret", "ken", "barbara", "edsger", "radia"]
    paths = ["/api/items", "/api/orders", "/api/users", "/health", "/static/app.js"]
    lines: list[str] = []
    made = 0
    while made < size_bytes:
        line = json.dumps({
            "id": f"{rng.getrandbits(64):016x}", "time": 1718600000 + rng.randrange(10**7),
            "user": {"name": rng.choice(names), "age": rng.randrange(18, 90)},
            "request": {"path": rng.choice(paths), "status": rng.choice([200, 200, 200, 304, 404]),
                        "ms": round(rng.expovariate(0.05), 3)},
            "scores": [round(rng.gauss(0, 1), rng.choice([2, 6])) for _ in range(rng.randrange(6))],
            "active": rng.random() < 0.7,
        })
        lines.append(line)
        made += len(line) + 1
    return "\n".join(lines).encode()[:size_bytes]


def _numeric(size_bytes: int) -> bytes:
    each = -(-size_bytes // len(NUMERIC) // UNIT_BYTES) * UNIT_BYTES
    return b"".join(make_corpus(name, each) for name in NUMERIC)


def _file_kind(kind: str) -> Callable[[int], bytes]:
    return lambda size_bytes: corpora.make(kind, size_bytes).tobytes()


def _mix(size_bytes: int) -> bytes:
    return b"".join(workloads.material(size_bytes // UNIT_BYTES).units)


#: In the order in which tables show them: a maker, and a few words.
CORPORA: dict[str, tuple[Callable[[int], bytes], str]] = {
    "text": (_file_kind("text"), corpora.KINDS["text"]),
    "elf": (_file_kind("elf"), corpora.KINDS["elf"]),
    "json": (_json, "JSON records"),
    "numeric": (_numeric, "thirty kinds of NumPy arrays"),
    "mix": (_mix, "half files, half arrays: what `lab locks` works on"),
}


def objects(corpus: str, codec: str, units_n: int, seed: int = 7) -> Objects:
    """About `units_n` units of `corpus`, a key of `CORPORA`, compressed with `codec`."""
    if corpus not in CORPORA:
        raise UsageError(f"no corpus is called {corpus!r}; there are {', '.join(CORPORA)}")
    data = CORPORA[corpus][0](units_n * UNIT_BYTES)
    table = np.frombuffer(data[: len(data) // UNIT_BYTES * UNIT_BYTES], np.uint64)
    table = table.reshape(-1, UNIT_BYTES // 8)
    order = list(range(len(table)))
    random.Random(seed).shuffle(order)
    del order[units_n:]
    packer = get_codec(codec)
    units: list[bytes] = []
    for i in order:
        if (table[i] == table[i, 0]).all():
            units.append(b"")
            continue
        unit = table[i].tobytes()
        small = packer.compress(unit)
        units.append(unit if small is None or len(small) >= UNIT_BYTES else small)
    return Objects(units)
